//! Streamgauge: Server-Sent Event feeds as SQL tables, with rolling windows that stay up to date.
//!
//! # Life of an event
//!
//! 1. A chunk of a response body arrives ([`feed::Feed::read`]). Connections, redirects, retries and the watchdog are behind that call.
//! 2. The parser finds the event in it, borrowed, after the letter of the standard ([`feed::Parser`]); events of unwanted types end here.
//! 3. The decoder reads the declared columns out of its JSON into Arrow builders; a bad record costs only itself ([`format::Decoder`]).
//! 4. When the socket is empty, the table's one task cuts a batch and works out the watermark ([`table::Table`]).
//! 5. Every reader gets the rows of its columns, then the watermark ([`operator::Message`]), by a bounded channel: a slow reader slows the feed.
//! 6. A run takes the message and pushes it through its chain ([`view::Run`], [`operator::Chain`]). From here on nothing waits or reads a clock.
//! 7. Filters and projections are DataFusion's expressions ([`operator::Filter`], [`operator::Project`]).
//! 8. A window adds the row to its pane ([`operator::WindowAggregate`]); window functions put it in order first ([`operator::Over`]).
//! 9. The watermark reaches the end of a window: its panes are merged and the result is finished by a bounded plan ([`operator::Finish`]).
//! 10. What was said before is compared with what is true now: inserts, deletes, updates ([`change::difference`]).
//! 11. The run is driven into an output or a view ([`view::drive`], [`engine::Output`]), and they become text ([`format::encode`]): rows on a terminal
//!     or in a file.
//! 12. On a server the view numbers them and keeps the latest ([`view::Live`]); a channel of [`serve::stream`] encodes them once for all who
//!     follow it in one shape, and each client sends them at its own pace.
//!
//! # Life of a view
//!
//! 1. Its text is a statement of a script ([`cli::script`]) or of `POST /v1/sql`, or what a body of `POST /v1/views` means ([`serve`]).
//!    It is read with the places of its words, and an error costs only its own statement ([`sql::parse`]).
//! 2. The engine does what a statement says ([`Engine::execute`]). A server lets one after the other change definitions, and keeps each
//!    before the next ([`serve::App::execute`], [`checkpoint::Store`]).
//! 3. The query is said in DataFusion's words ([`sql::rewrite`]), and DataFusion resolves its names and types. Why it cannot is told in
//!    ours, with the place ([`sql::explain_error`]).
//! 4. DataFusion optimises the plan, and each of its nodes becomes a step or the reason why it has no place in an endless query
//!    ([`plan::compile`]; the whole way is told in [`plan`]). What cannot run is refused here, and not when it is read.
//! 5. The view gets its name ([`catalog::Catalog`]). To other queries it is what it stands for; where views are kept running, a query
//!    that is answered once reads its rows.
//! 6. `run` opens the views that no other reads, all at once ([`Engine::open`]); a server has every view running from its creation on,
//!    with its rows and latest changes for whoever asks ([`view::Live`]).
//! 7. Every run has a chain with state of its own ([`plan::Plan::instance`]). It joins its tables, and only then are their feeds read
//!    ([`table::Table::start`]): the first event meets all of them. What follows is the life of an event.
//!
//! # Life of a checkpoint
//!
//! 1. Every few seconds each table that views read is to send a barrier ([`engine::Checkpoints`], [`operator::Barrier`]). Between two
//!    batches its task saves how far the feed has come, and sends the barrier to its readers behind all rows so far. Beside the barrier
//!    travels what collects the parts of the checkpoint ([`table::Gathering`]).
//! 2. A run that reads several tables stops reading one that brought the barrier until all have ([`view::Run::next`]): a consistent cut.
//! 3. All operators save their state after exactly those rows, as Arrow ([`operator::Chain::save`]); what did not change is not saved again.
//! 4. The view adds its rows, its latest changes and their numbers ([`view::Live`]). Where rows leave for good, as to a file, the output
//!    waits until they are written, and the checkpoint holds how far that is ([`engine::OutputBarriers`]).
//! 5. The parts of all tables and views are written to one file while rows go on flowing ([`checkpoint::Archive`]).
//! 6. After a crash the newest whole file is read, and feeds resume behind the last event that the checkpoint counts.
//!
//! # In a DataFusion program
//!
//! ```
//! use datafusion::prelude::SessionContext;
//! use futures::StreamExt;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = SessionContext::new();
//! streamgauge::register(&session)?;
//! streamgauge::create_table(
//!     &session,
//!     "CREATE TABLE metrics (host TEXT, value DOUBLE, timestamp TIMESTAMP, WATERMARK FOR timestamp AS timestamp - INTERVAL '5 seconds')
//!      WITH (connector = 'file', path = 'fixtures/system_metrics.sse')", // or connector = 'sse', endpoint = 'https://…'
//! )?;
//! let rolling = session.sql("SELECT host, avg(value), TUMBLE(INTERVAL '10 seconds') AS window FROM metrics GROUP BY host, window").await?;
//! let mut rows = rolling.execute_stream().await?;
//! let first = rows.next().await.expect("the file has rows")?;
//! assert_eq!(first.schema().field(2).name(), "window");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod catalog;
pub mod change;
pub mod checkpoint;
pub mod cli;
pub mod docs;
pub mod engine;
pub mod error;
pub mod feed;
pub mod format;
pub mod function;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod memory;
pub mod operator;
pub mod options;
pub mod plan;
pub mod serve;
pub mod sql;
pub mod table;
pub mod time;
pub mod view;
pub mod window;
pub mod zone;

pub use engine::{Engine, create_table};
pub use view::register;
