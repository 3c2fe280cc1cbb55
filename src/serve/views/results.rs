//! The rows of a view as they are, in several forms; waiting for a change where asked.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::shown::find;
use crate::engine::{Engine, View};
use crate::error::Error;
use crate::serve::App;
use crate::serve::body::Query;
use crate::serve::listen::Shutdown;
use crate::serve::problem::{Problem, Result};
use crate::serve::rows::{self, Form};
use crate::view::{Health, Live, Snapshot};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(results))
}

/// The longest wait for a change: proxies give up on a silent answer after a minute.
const WAIT_MAX: Duration = Duration::from_secs(50);

/// How long it may take to choose and order rows.
const SELECT_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct ResultQuery {
    /// At most so many rows.
    limit: Option<usize>,
    /// Leave out so many first.
    offset: usize,
    /// A condition over the columns: `price > 10`.
    r#where: Option<String>,
    /// Columns or expressions, each perhaps with `DESC`, separated by commas.
    order_by: Option<String>,
    /// `json` (default), `ndjson`, `csv` or `arrow`; the header `Accept` says it as well.
    #[param(inline)]
    format: Option<Form>,
}

/// The rows of a view as they are now. With `If-None-Match` and `Prefer: wait=30` the answer waits until they change.
#[utoipa::path(get, operation_id = "view_results", path = "/views/{id}/results", tag = "views", params(("id" = String, Path), ResultQuery), responses(
    (status = 200, description = "Rows, in the form that was asked for; the ETag names their state", content(
        (rows::RowsBody = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"),
    )),
    (status = 304, description = "They are still the ones that the ETag names"),
    (status = 404, body = Problem, description = "There is no such view"),
    (status = 406, body = Problem, description = "No such form"),
    (status = 422, body = Problem, description = "A condition or order is wrong"),
))]
async fn results(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wanted): Query<ResultQuery>,
    Extension(shutdown): Extension<Shutdown>,
    headers: HeaderMap,
) -> Result<Response> {
    let form = Form::negotiate(wanted.format, headers.get(ACCEPT))?;
    let waits = wait_of(&headers);
    let (live, snapshot) = shutdown.or(fresh(&app.engine, &id, &headers, waits.unwrap_or_default())).await?;
    let applied = waits.map(|wait| (HeaderName::from_static("preference-applied"), format!("wait={}", wait.as_secs())));
    let tag = state(&live, snapshot.as_ref().map_or_else(|| live.head(), |snapshot| snapshot.seq));
    let mut response = match snapshot {
        None => StatusCode::NOT_MODIFIED.into_response(),
        Some(Snapshot { rows, seq, .. }) => {
            let total = rows.num_rows();
            let selected = app.engine.select(rows, wanted.r#where, wanted.order_by, Instant::now() + SELECT_TIME_MAX).await;
            let rows = selected.map_err(unselected)?;
            let start = wanted.offset.min(rows.num_rows());
            let rows = rows.slice(start, wanted.limit.unwrap_or(usize::MAX).min(rows.num_rows() - start));
            rows::answer(form, &rows, total, &position(&live, seq))?
        }
    };
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    if let Some((name, value)) = applied
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Why a condition or an order is wrong: whatever it names, the view itself is there.
fn unselected(error: Error) -> Problem {
    let problem = Problem::from(error.unplaced());
    match problem.status() {
        StatusCode::NOT_FOUND => problem.with_status(StatusCode::UNPROCESSABLE_ENTITY),
        _ => problem,
    }
}

/// The rows, or `None` if they are those that `If-None-Match` names and stay so for `wait`. A view that is made anew meanwhile is
/// another state; one that is dropped is not there.
async fn fresh(engine: &Engine, id: &str, headers: &HeaderMap, wait: Duration) -> Result<(Arc<Live>, Option<Snapshot>)> {
    let deadline = Instant::now() + wait;
    // Only the rows are held while waiting: holding the view would keep it running after it is dropped.
    let live = || find(engine, id).and_then(|view| running(&view).cloned());
    let mut live_now = live()?;
    loop {
        let mut follower = live_now.follow(live_now.head());
        if live_now.health() == Health::Dropped {
            live_now = live()?;
            continue;
        }
        let snapshot = live_now.snapshot()?;
        let tag = state(&live_now, snapshot.seq);
        let known =
            headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
        let is_known = known
            .map(|known| known.trim().trim_start_matches("W/"))
            .any(|known| known == "*" || known.as_bytes() == tag.as_bytes());
        if !is_known {
            return Ok((live_now, Some(snapshot)));
        }
        if tokio::time::timeout_at(deadline, follower.changed()).await.is_err() {
            return Ok((live_now, None));
        }
    }
}

/// The ETag of rows.
fn state(live: &Live, seq: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", position(live, seq))).unwrap_or(HeaderValue::from_static("\"\""))
}

/// `Prefer: wait=30` of RFC 7240, in seconds.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let waits = preferences.filter_map(|preference| preference.trim().strip_prefix("wait=")?.trim().parse::<u64>().ok());
    waits.map(Duration::from_secs).next().map(|wait| wait.min(WAIT_MAX))
}

/// A view's rows and changes.
pub fn running(view: &View) -> Result<&Arc<Live>> {
    view.live().ok_or_else(|| Error::bug("a view of the server does not run").into())
}

/// The id of a change: `<epoch>-<number>`.
pub fn position(live: &Live, seq: u64) -> String {
    format!("{}-{seq}", live.epoch())
}
