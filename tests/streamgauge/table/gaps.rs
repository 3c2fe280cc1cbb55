//! What a table keeps of its gaps and bad events where it goes on, and where it cannot.

use std::sync::Arc;

use streamgauge::engine::Answer as Given;
use streamgauge::feed::{Gap, GapReason};
use streamgauge::operator::rows::text;
use streamgauge::operator::{Barrier, Frame};
use streamgauge::sql::{self, StatementKind};
use streamgauge::table::{Follow, Gathering, Subscription, Table, TableSpec};

use super::{HUNG, TIMED, create, engine, event, open, take, until};
use crate::support::server::{Answer, Server};

fn a_table(server: &Server) -> Arc<Table> {
    a_table_of(server, "n BIGINT", "")
}

fn a_table_of(server: &Server, columns: &str, options: &str) -> Arc<Table> {
    let (statements, _) = sql::parse(&create("t", server, columns, options));
    let StatementKind::CreateTable(create) = &statements[0].kind else { panic!("no table") };
    Table::new(TableSpec::new(create, &datafusion::prelude::SessionContext::new().state()).unwrap())
}

/// Reads until so many events have come.
async fn events(table: &Arc<Table>, count: u64) -> Subscription {
    let reader = table.subscribe(vec![0], Follow::EXACT).unwrap();
    table.start();
    until(|| table.feed_status().snapshot().events >= count).await;
    reader
}

/// The table's part of a checkpoint.
async fn saved(table: &Table) -> Vec<Frame> {
    let (gathering, mut given) = Gathering::new(Barrier { epoch: 1, last: false }, None);
    table.send_barrier(&Arc::new(gathering));
    let given = tokio::time::timeout(HUNG, given.recv()).await.unwrap().unwrap();
    given.part.unwrap().frames
}

fn gaps(table: &Table) -> Vec<(u64, Gap)> {
    table.feed_status().gaps().after(0)
}

#[tokio::test]
async fn a_table_goes_on_with_its_gaps_and_bad_events_or_begins_anew_with_a_gap() {
    let first = Answer::stream().text("data: {\"n\":1}\n\n");
    let second = Answer::stream().text("id: 7\ndata: {\"n\":2}\n\nid: 8\ndata: nonsense\n\n").stall();
    let third = Answer::stream().text("id: 9\ndata: {\"n\":3}\n\n").stall();
    let server = Server::start([first, second, third]).await;
    let table = a_table(&server);
    let reader = events(&table, 3).await;
    let frames = saved(&table).await;
    assert_eq!(gaps(&table).len(), 1);

    let on = a_table(&server);
    assert!(on.resume_at(frames.clone()).unwrap());
    assert_eq!((gaps(&on), on.status().samples().after(0)), (gaps(&table), table.status().samples().after(0)));
    assert_eq!(on.feed_status().log().after(0), table.feed_status().log().after(0));
    let _on = events(&on, 1).await;
    assert_eq!(server.request(2).await.header("last-event-id"), Some("8"));
    assert_eq!(gaps(&on).len(), 1);

    let anew = a_table(&server);
    anew.begin_after(frames.clone());
    let _anew = events(&anew, 1).await;
    assert_eq!(server.request(3).await.header("last-event-id"), None);
    let [(1, gap)] = &gaps(&anew)[..] else { panic!("{:?}", gaps(&anew)) };
    assert_eq!((gap.last_id.as_str(), gap.next_id.as_str(), gap.reason), ("8", "9", GapReason::PlaceLost));

    // Nobody reads it any more: there is no place, and still a past.
    drop(reader);
    server.closed_but(2).await;
    until(|| table.state_text() == "not read").await;
    let (gathering, mut given) = Gathering::new(Barrier { epoch: 1, last: false }, None);
    table.give_past(&gathering);
    let frames = given.recv().await.unwrap().part.unwrap().frames;
    let past = a_table(&server);
    assert!(!past.resume_at(frames).unwrap());
    assert_eq!((gaps(&past), past.status().samples().after(0)), (gaps(&table), table.status().samples().after(0)));
}

#[tokio::test]
async fn a_table_that_goes_on_knows_how_far_its_time_had_come() {
    let server = Server::start([Answer::stream().text(&event(1, 0.5)).stall(), Answer::stream().stall()]).await;
    let a_table = || a_table_of(&server, TIMED, "idle_timeout = 'off'");
    let (table, on) = (a_table(), a_table());
    let _reader = events(&table, 1).await;
    until(|| table.status().snapshot().watermark.is_some()).await;
    on.resume_at(saved(&table).await).unwrap();
    let _on = on.subscribe(vec![0], Follow::VIEW.restored()).unwrap();
    on.start();
    until(|| on.state_text() == "connected").await;
    assert_eq!(on.status().snapshot().watermark, table.status().snapshot().watermark);
}

#[tokio::test]
async fn show_gaps_lists_them_by_table_and_by_view() {
    let (one, two) = (Answer::stream().text("data: {\"n\":1}\n\n"), Answer::stream().text("id: b\ndata: {\"n\":2}\n\n").stall());
    let (server, other) = (Server::start([one, two]).await, Server::start([Answer::stream().stall()]).await);
    let script = create("t", &server, "n BIGINT", "") + &create("quiet", &other, "n BIGINT", "");
    let engine = engine(&(script + "CREATE VIEW v AS SELECT n FROM t; CREATE VIEW w AS SELECT n FROM quiet;")).await;
    let show = async |statement: &str| {
        let (statements, _) = sql::parse(statement);
        match engine.execute(&statements[0]).await {
            Ok(Given::Rows(rows)) => Ok((0..rows.num_rows()).map(|row| text(&rows, row)).collect::<Vec<_>>()),
            Ok(_) => panic!("no rows"),
            Err(errors) => Err(errors[0].to_string()),
        }
    };
    assert!(show("SHOW GAPS").await.unwrap().is_empty());
    let mut output = open(&engine, "SELECT n FROM t").await;
    take(&mut output, 2).await;
    for statement in ["SHOW GAPS", "SHOW GAPS FOR t", "SHOW GAPS FOR v"] {
        let rows = show(statement).await.unwrap();
        assert_eq!(rows.len(), 1, "{statement}");
        let (expected, end) =
            ("table=t, from=", "last id=, next id=b, missing=unknown, reason=the feed has no id to go on after");
        assert!(rows[0].starts_with(expected) && rows[0].ends_with(end), "{rows:?}");
    }
    assert!(show("SHOW GAPS FOR w").await.unwrap().is_empty());
    assert!(show("SHOW GAPS FOR x").await.unwrap_err().contains("'x'"));
}
