//! Conditions over the rows of a view: what `where=` may say, for the rows as they are and for changes to come.

use reqwest::Method;

use super::Service;
use crate::support::server::Signal;

/// A server with the view `orders` of three rows, one of them without a total.
async fn orders() -> (Service, crate::support::server::Server) {
    let service = Service::start().await;
    let server = service.with_feed(&[(&Signal::default(), &[("a", 1), ("b", 2000), ("c", 0)])]).await;
    service.sql("CREATE VIEW orders AS SELECT id, total FROM feed").await;
    service.sql("CREATE VIEW minutes AS SELECT id, count(*) AS n, TUMBLE(INTERVAL '1 minute') AS window FROM feed GROUP BY id, window").await;
    service.changes("orders", 3).await;
    (service, server)
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The statuses of the rows, the polled changes and the stream, and the text of the last that is a problem.
async fn ask(service: &Service, view: &str, condition: &str) -> ([u16; 3], String) {
    let (mut statuses, mut problem) = ([0; 3], String::new());
    for (status, place) in statuses.iter_mut().zip(["results", "changes", "stream"]) {
        let request = service.request(Method::GET, &format!("/v1/views/{view}/{place}?where={}", encoded(condition)));
        let response = request.send().await.unwrap();
        *status = response.status().as_u16();
        if *status != 200 {
            problem = response.text().await.unwrap();
        }
    }
    (statuses, problem)
}

#[tokio::test]
async fn a_condition_means_the_same_for_rows_and_changes() {
    let (service, _feed) = orders().await;
    for condition in [
        "total > 1000",
        "id = 'a' OR total IS NULL",
        "lower(id) LIKE 'a%'",
        "CASE WHEN total > 1 THEN true ELSE false END",
        "total BETWEEN 1 AND 3 AND id IN ('a', 'b')",
        "\"orders\" IS NULL OR true",
        "total / 2 > 3",
        "true",
        "null",
        "coalesce(id, 'x') = 'a'",
        "nvl(total, 0) > 1",
    ] {
        let (statuses, problem) = ask(&service, "orders", condition).await;
        let expected = if condition.contains("orders") { 422 } else { 200 };
        assert_eq!(statuses, [expected; 3], "{condition}: {problem}");
    }
    for condition in [
        "totl > 1",
        "total >",
        "total",
        "total = 'x' + 1",
        "sum(total) > 1",
        "id IN (SELECT id FROM orders)",
        "EXISTS (SELECT 1)",
        "no_such(total)",
        "total > 1 ORDER BY id",
        "total > 1; SELECT 1",
        "CAST(id AS NOTHING) > 1",
        "TUMBLE(INTERVAL '1 minute') IS NULL",
        "id -> > 1",
        "",
        "total > 'abc'",
    ] {
        let (statuses, problem) = ask(&service, "orders", condition).await;
        assert_eq!(statuses, [422; 3], "{condition}: {problem}");
    }
    assert_eq!(ask(&service, "minutes", "window.end > '2026-03-01T12:00:00Z'").await.0, [200; 3]);
    assert_eq!(ask(&service, "minutes", "window.begin > '2026-03-01T12:00:00Z'").await.0, [422; 3]);
}

/// The time and what is random have one value for the rows as they are, and none for changes that come later.
#[tokio::test]
async fn a_condition_on_the_time_is_for_the_rows_as_they_are() {
    let (service, _feed) = orders().await;
    for (view, condition, says) in [
        ("minutes", "window.end > now() - INTERVAL '1 hour'", "now()"),
        ("minutes", "CAST(window.end AS DATE) = current_date", "current_date()"),
        ("orders", "total > random()", "random()"),
        ("orders", "uuid() <> id", "uuid()"),
        ("orders", "row_number() OVER (ORDER BY total) < 3", "more than one row"),
    ] {
        let (statuses, problem) = ask(&service, view, condition).await;
        assert_eq!(statuses, [200, 422, 422], "{condition}: {problem}");
        assert!(problem.contains(says) && problem.contains("/results?where="), "{condition}: {problem}");
    }
}

/// A row for which a condition cannot be computed does not meet it; the others are sent.
#[tokio::test]
async fn a_row_that_a_condition_fails_on_does_not_end_a_stream() {
    let (service, _feed) = orders().await;
    let answer =
        service.get(&format!("/v1/views/orders/changes?where={}", encoded("10 / total >= 0"))).await.with(200).to_string();
    assert!(answer.contains("2000") && answer.contains("\"a\"") && !answer.contains("\"c\""), "{answer}");
}
