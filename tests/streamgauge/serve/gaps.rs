//! Gaps, bad events and turns of a feed from outside: shown wherever one looks, and still there after a restart.

use std::path::Path;

use serde_json::{Value, json};
use streamgauge::serve::settings::Settings;

use super::Service;
use super::tables::{TABLES, reach};
use crate::support::server::{Answer as Feed, Server};

fn event(id: u32) -> String {
    format!("id: {id}\ndata: {{\"n\":{id}}}\n\n")
}

fn events(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(event).collect()
}

async fn service(dir: &Path) -> Service {
    Service::start_with(Settings { data: Some(dir.into()), ..Settings::default() }).await
}

async fn make(service: &Service, server: &Server) {
    let table = json!({
        "name": "a",
        "connector": "sse",
        "config": {"endpoint": server.url(), "headers": "Authorization: Bearer geheim-1", "reconnect_delay_ms": 0},
        "schema": {"fields": [{"name": "n", "type": "BIGINT"}]},
    });
    service.post(TABLES, table).await.with(201);
    service.sql("CREATE VIEW v AS SELECT n FROM a").await;
}

#[tokio::test]
async fn a_gap_shows_wherever_one_looks() {
    let server = Server::start([
        Feed::stream().text(&events(1..=10)),
        Feed::stream().text("id: geheim-1\ndata: {\"n\":11}\n\n"),
        Feed::stream().text("data: {\"n\":12}\n\n").stall(),
    ])
    .await;
    let service = Service::start().await;
    make(&service, &server).await;
    reach(&service, "a", |status| status["rows_total"] == 12).await;
    let status = service.get(&format!("{TABLES}/a")).await.with(200)["status"].clone();
    assert_eq!(status["gaps_total"], 1, "{status}");
    assert!(status["gap_seconds_total"].as_f64().unwrap() > 0.0);
    let gap = &status["last_gap"];
    assert_eq!(
        (&gap["last_id"], &gap["next_id"], &gap["missing"], &gap["reason"]),
        (&json!("10"), &json!("***"), &json!(null), &json!("renumbered"))
    );
    assert!(gap["from"].as_str().unwrap() < gap["to"].as_str().unwrap(), "{gap}");
    let page = service.get(&format!("{TABLES}/a/gaps")).await.with(200);
    assert_eq!((&page["next"], &page["data"][0]["number"], &page["data"][0]["detail"]), (&json!(1), &json!(1), &gap["detail"]));
    assert_eq!(service.get(&format!("{TABLES}/a/gaps?after=1")).await.with(200), json!({"data": [], "next": 1}));
    let followed = service.get(&format!("{TABLES}/a/gaps/stream?limit=1")).await;
    assert!(followed.text.starts_with("id: 1\ndata: {") && followed.text.contains("renumbered"), "{}", followed.text);
    assert!(service.sql("SHOW GAPS FOR v").await[0].contains("last id=10, next id=***, missing=unknown"));
    assert!(service.sql("SHOW STATUS").await[0].contains("gaps=1"));
    let metrics = service.get("/metrics").await.text;
    assert!(metrics.contains("\nstreamgauge_table_gaps_total{table=\"a\"} 1"), "{metrics}");
    assert!(metrics.contains("\nstreamgauge_table_gap_seconds_total{table=\"a\"} 0."), "{metrics}");
    for what in ["gaps", "gaps/stream"] {
        service.get(&format!("{TABLES}/b/{what}")).await.with(404);
        assert_eq!(service.get(&format!("{TABLES}/a/{what}?x=1")).await.status, 400);
    }
}

#[tokio::test]
async fn gaps_bad_events_and_turns_are_there_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let bad = "id: 11\ndata: geheim-1\n\n";
    let server = Server::start([
        Feed::stream().text(&(events(1..=10) + bad)),
        Feed::stream().text(&event(14)).stall(),
        Feed::stream().text(&(event(20) + "id: 21\ndata: nonsense\n\n")).stall(),
        Feed::stream().stall(),
    ])
    .await;
    let look = async |service: &Service, what: &str| {
        let page = service.get(&format!("{TABLES}/a/{what}")).await.with(200);
        page["data"].as_array().unwrap().clone()
    };
    let numbers = |entries: &[Value]| entries.iter().map(|entry| entry["number"].as_u64().unwrap()).collect::<Vec<_>>();

    let first = service(dir.path()).await;
    make(&first, &server).await;
    reach(&first, "a", |status| status["rows_total"] == 11).await;
    let (gaps, bad, log) = (look(&first, "gaps").await, look(&first, "errors").await, look(&first, "logs").await);
    assert_eq!((numbers(&gaps), &gaps[0]["missing"], numbers(&bad)), (vec![1], &json!(2), vec![1]));
    first.stop().await;
    for file in std::fs::read_dir(dir.path().join("checkpoints")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"geheim"), "a secret is kept");
    }

    let second = service(dir.path()).await;
    reach(&second, "a", |status| status["decode_errors_total"] == 1).await;
    assert_eq!(server.request(2).await.header("last-event-id"), Some("14"));
    let (more_gaps, more_bad, more_log) =
        (look(&second, "gaps").await, look(&second, "errors").await, look(&second, "logs").await);
    assert_eq!((&more_gaps[0], &more_bad[0], &more_log[..log.len()]), (&gaps[0], &bad[0], &log[..]));
    assert_eq!((numbers(&more_gaps), numbers(&more_bad)), (vec![1, 2], vec![1, 2]));
    assert_eq!(
        (&more_gaps[1]["last_id"], &more_gaps[1]["next_id"], &more_gaps[1]["missing"]),
        (&json!("14"), &json!("20"), &json!(5))
    );
    assert!(numbers(&more_log).iter().copied().eq(1..=more_log.len() as u64), "{more_log:?}");
    let status = second.get(&format!("{TABLES}/a")).await.with(200)["status"].clone();
    second.stop().await;

    let third = service(dir.path()).await;
    server.request(3).await;
    let now = third.get(&format!("{TABLES}/a")).await.with(200)["status"].clone();
    for what in ["gaps_total", "gap_seconds_total", "last_gap"] {
        assert_eq!(now[what], status[what], "{what}");
    }
    assert_eq!((look(&third, "gaps").await, look(&third, "errors").await), (more_gaps, more_bad));
}
