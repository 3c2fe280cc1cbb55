//! Views over REST: made, looked at, replaced and dropped; their rows and changes.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::tables::pointers;
use super::{Answer, Service, json as with_json, send};
use crate::support::server::{Answer as Feed, Server, Signal};

const VIEWS: &str = "/v1/views";

impl Service {
    /// With a table `feed` of ids and totals; the first batch of rows comes at once, each other one when its signal says so.
    pub(super) async fn with_feed(&self, batches: &[(&Signal, &[(&str, i64)])]) -> Server {
        let mut answer = Feed::stream();
        for (signal, rows) in batches {
            for (id, total) in *rows {
                answer = answer.event("message", &json!({"id": id, "total": total}).to_string());
            }
            answer = answer.wait(signal);
        }
        let server = Server::start([answer.stall()]).await;
        let table = format!("CREATE TABLE feed (id TEXT, total BIGINT) WITH (connector = 'sse', endpoint = '{}')", server.url());
        self.sql(&table).await;
        server
    }
}

/// A server with the table `feed`, two rows of it, and the view `orders` over it.
async fn orders() -> (Service, Server) {
    let service = Service::start().await;
    let server = service.with_feed(&[(&Signal::default(), &[("a", 1), ("b", 2000)])]).await;
    service.post(VIEWS, view("orders", "SELECT id, total FROM feed")).await.with(201);
    service.changes("orders", 2).await;
    (service, server)
}

fn view(name: &str, query: &str) -> Value {
    json!({"name": name, "query": query})
}

fn names(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn views_are_made_listed_shown_and_dropped() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[]).await;
    let made = service.post(VIEWS, view("current-totals", "SELECT id, total FROM feed")).await;
    assert_eq!((made.status, made.header("location")), (201, "/v1/views/current-totals"));
    let one = service.get(&format!("{VIEWS}/current-totals")).await;
    assert_eq!((one.header("etag"), one.header("cache-control")), (made.header("etag"), "no-store"));
    let (made, one) = (made.json(), one.with(200));
    for member in ["id", "name", "query", "sql", "columns", "kind", "depends_on", "created_at"] {
        assert_eq!(one[member], made[member], "{member}");
    }
    assert_eq!(one["columns"][1], json!({"name": "total", "type": "BIGINT", "nullable": true}));
    assert_eq!((&one["kind"], &one["depends_on"], &one["used_by"]), (&json!("append"), &json!(["feed"]), &json!([])));
    let id = one["id"].as_str().unwrap();
    assert!(id.starts_with("vw_"), "{one}");
    assert_eq!(service.get(&format!("/api{VIEWS}/{id}")).await.with(200)["name"], "current-totals");
    // What is made in one language shows in the other.
    service.sql("CREATE VIEW b AS SELECT id FROM feed").await;
    service.sql(r#"CREATE VIEW c AS SELECT id FROM "current-totals""#).await;
    let page = service.get(&format!("{VIEWS}?limit=2")).await.with(200);
    assert_eq!((names(&page), &page["has_more"], &page["next"]), (vec!["current-totals", "b"], &json!(true), &json!("b")));
    let page = service.get(&format!("{VIEWS}?limit=2&starting_after=b")).await.with(200);
    assert_eq!((names(&page), &page["has_more"], &page["next"]), (vec!["c"], &json!(false), &Value::Null));
    assert_eq!(names(&service.get(&format!("{VIEWS}?offset=1&limit=1")).await.with(200)), ["b"]);
    assert_eq!(names(&service.get(&format!("{VIEWS}?name=c&state=running")).await.with(200)), ["c"]);
    assert!(names(&service.get(&format!("{VIEWS}?state=failed")).await.with(200)).is_empty());
    for (query, status) in [("starting_after=x", 422), ("limt=2", 400), ("limit=many", 400), ("limit=-1", 400)] {
        assert_eq!(service.get(&format!("{VIEWS}?{query}")).await.status, status, "{query}");
    }
    assert_eq!(
        service
            .delete(&format!("{VIEWS}/{}", service.get(&format!("{VIEWS}/b")).await.json()["id"].as_str().unwrap()))
            .await
            .status,
        204
    );
    let gone = service.delete(&format!("{VIEWS}/b")).await.with(404);
    assert!(gone["detail"].as_str().unwrap().contains("'b'") && gone.get("span").is_none(), "{gone}");
    for path in ["", "/results", "/changes", "/stream", "/plan"] {
        let near = service.get(&format!("{VIEWS}/curent-totals{path}")).await.with(404);
        assert_eq!(near["errors"][0]["hint"], "did you mean 'current-totals'?", "{path}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_view_is_told_with_its_place() {
    let (service, _server) = orders().await;
    let with = |member: &str, value: Value| {
        let mut body = view("v", "SELECT id FROM feed");
        body[member] = value;
        body
    };
    for (body, status, pointer, expect) in [
        (view("orders", "SELECT id FROM feed"), 409, "/name", "'orders' is there already"),
        (view("feed", "SELECT 1"), 409, "/name", "'feed' is"),
        (view("1st", "SELECT 1"), 422, "/name", "give a letter"),
        (view("v\" AS SELECT 1; DROP TABLE feed; --", "SELECT 1"), 422, "/name", "give a letter"),
        (view(&"v".repeat(64), "SELECT 1"), 422, "/name", "at most 63"),
        (view("v", "SELECT id FROM fed"), 422, "/query", "did you mean 'feed'?"),
        (view("v", "SELECT idd FROM feed"), 422, "/query", "'id'"),
        (view("v", "SELECT id FROM v"), 422, "/query", "'v'"),
        (view("v", ""), 422, "/query", ""),
        (view("v", "SELEC id FROM feed"), 422, "/query", ""),
        (view("v", "DROP TABLE feed"), 422, "/query", ""),
        (view("v", "SELECT id FROM feed; DROP TABLE feed"), 422, "/query", "more than one statement"),
        (with("emit", "sometimes".into()), 422, "/emit", "'sometimes'"),
        (with("emit_interval", "5".into()), 422, "/emit_interval", "'5'"),
        (with("retention", json!(-1)), 422, "/retention", ""),
        (with("state_bytes_max", "7 acres".into()), 422, "/state_bytes_max", "'acres'"),
        (with("qurey", "x".into()), 422, "/qurey", "did you mean 'query'?"),
        (with("query", json!(1)), 422, "/query", "found a number"),
        (json!({"name": "v"}), 422, "/query", "'query'"),
        (json!(["v"]), 422, "", ""),
    ] {
        let problem = service.post(VIEWS, body.clone()).await.with(status);
        assert_eq!(pointers(&problem), [pointer], "{body}: {problem}");
        assert!(problem.to_string().contains(expect), "{body}: {problem}");
        // Only in the query are there places that the author knows.
        assert!(problem.get("span").is_none() || pointer == "/query", "{body}: {problem}");
    }
    let problem = service.post(VIEWS, view("v", "SELECT 'größe' AS g,\n  idd\nFROM feed")).await.with(422);
    assert_eq!(problem["span"], json!({"start": {"line": 2, "column": 3}, "end": {"line": 2, "column": 6}}), "{problem}");
    let page = service.get(VIEWS).await.with(200);
    assert_eq!(names(&page), ["orders"]);
}

#[tokio::test]
async fn who_writes_says_what_he_has_seen() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[]).await;
    let path = format!("{VIEWS}/v");
    let put = async |query: &str, headers: &[(&str, &str)]| -> Answer {
        service.change(Method::PUT, &path, json!({"query": query}), headers).await
    };
    put("SELECT id FROM feed", &[("if-match", "*")]).await.with(412);
    let made = put("SELECT id FROM feed", &[("if-none-match", "*")]).await;
    assert_eq!((made.status, made.header("location")), (201, "/v1/views/v"));
    put("SELECT id FROM feed", &[("if-none-match", "*")]).await.with(412);
    let same = put("SELECT id FROM feed", &[]).await;
    assert_eq!((same.status, same.header("etag")), (200, made.header("etag")), "nothing has changed");
    let epoch = service.app.streams.live("v").unwrap().epoch();
    let dry = service.change(Method::PUT, &format!("{path}?dry_run=true"), json!({"query": "SELECT total FROM feed"}), &[]).await;
    assert_eq!(dry.with(200)["columns"][0]["name"], "total");
    assert_eq!(service.app.streams.live("v").unwrap().epoch(), epoch);
    let changed = put("SELECT total FROM feed", &[("if-match", made.header("etag"))]).await;
    assert_eq!((changed.status, &changed.json()["id"]), (200, &made.json()["id"]));
    assert_ne!(changed.header("etag"), made.header("etag"));
    assert_ne!(service.app.streams.live("v").unwrap().epoch(), epoch, "its old changes say nothing any more");
    put("SELECT id FROM feed", &[("if-match", made.header("etag"))]).await.with(412);
    let other = service.change(Method::PUT, &path, view("w", "SELECT id FROM feed"), &[]).await.with(422);
    assert_eq!(pointers(&other), ["/name"]);
    service.sql("CREATE VIEW reader AS SELECT total FROM v").await;
    let used = put("SELECT id FROM feed", &[]).await.with(409);
    assert_eq!((&used["dependants"], used.get("span")), (&json!(["reader"]), None), "{used}");
    let stale = send(service.request(Method::DELETE, &path).header("if-match", made.header("etag"))).await.with(412);
    assert!(stale["errors"][0]["hint"].as_str().unwrap().contains("ETag"), "{stale}");
    service.sql("DROP VIEW reader").await;
    assert_eq!(send(service.request(Method::DELETE, &path).header("if-match", changed.header("etag"))).await.status, 204);
    service.post(&format!("{VIEWS}?dry_run=true"), view("v", "SELECT id FROM feed")).await.with(200);
    service.get(&path).await.with(404);
}

#[tokio::test]
async fn a_post_that_comes_twice_is_done_once() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[]).await;
    let key = [("idempotency-key", "5f0c")];
    let post = async |query: &str, headers: &[(&str, &str)]| service.change(Method::POST, VIEWS, view("v", query), headers).await;
    let first = post("SELECT id FROM feed", &key).await;
    let second = post("SELECT id FROM feed", &key).await;
    assert_eq!((first.with(201), first.header("etag")), (second.with(201), second.header("etag")));
    assert_eq!(second.header("location"), "/v1/views/v");
    let other = post("SELECT total FROM feed", &key).await.with(422);
    assert!(other["detail"].as_str().unwrap().contains("Idempotency-Key"), "{other}");
    post("SELECT id FROM feed", &[]).await.with(409);
    let both = [("idempotency-key", "x"), ("x-request-id", "x")];
    post("SELECT id FROM fed", &both).await.with(422);
    // What failed may be tried again, also corrected.
    service.delete(&format!("{VIEWS}/v")).await;
    post("SELECT id FROM feed", &both[..1]).await.with(201);
}

#[tokio::test]
async fn what_others_use_stays() {
    let (service, _server) = orders().await;
    service.post(VIEWS, view("large", "SELECT id FROM orders WHERE total > 1000")).await.with(201);
    service.post("/v1/streams", json!({"id": "dashboard", "views": ["large"]})).await.with(201);
    for (path, dependants, hint) in [
        ("/v1/connection_tables/feed", json!(["orders"]), "cascade=true"),
        ("/v1/connection_tables/feed?cascade=true", json!(["dashboard"]), "DELETE /v1/streams/dashboard"),
        ("/v1/views/orders", json!(["large"]), "cascade=true"),
        ("/v1/views/orders?cascade=true", json!(["dashboard"]), "DELETE /v1/streams/dashboard"),
        ("/v1/views/large", json!(["dashboard"]), "DELETE /v1/streams/dashboard"),
    ] {
        let used = service.delete(path).await.with(409);
        assert_eq!((&used["dependants"], used.get("span")), (&dependants, None), "{path}: {used}");
        assert!(used["errors"][0]["hint"].as_str().unwrap().contains(hint), "{path}: {used}");
    }
    assert_eq!(service.delete("/v1/streams/dashboard").await.status, 204);
    assert_eq!(service.delete("/v1/connection_tables/feed?cascade=true").await.status, 204);
    assert!(names(&service.get(VIEWS).await.with(200)).is_empty());
}

#[tokio::test]
async fn rows_come_in_the_form_and_order_that_is_asked_for() {
    let (service, _server) = orders().await;
    let results = async |query: &str| service.get(&format!("{VIEWS}/orders/results{query}")).await;
    let all = results("").await.with(200);
    let epoch = service.app.streams.live("orders").unwrap().epoch();
    let rows = json!([{"id": "a", "total": 1}, {"id": "b", "total": 2000}]);
    assert_eq!(all, json!({"data": rows, "count": 2, "total": 2, "position": format!("{epoch}-2")}));
    for (query, ids) in [
        ("?order_by=total%20DESC", &["b", "a"][..]),
        ("?where=total%20%3E%20100", &["b"]),
        ("?limit=1", &["a"]),
        ("?offset=1", &["b"]),
        ("?offset=5", &[]),
        ("?limit=1&order_by=id%20DESC&offset=1&where=id%20IS%20NOT%20NULL", &["a"]),
        ("?where=false", &[]),
    ] {
        let rows = results(query).await.with(200);
        let found: Vec<&str> = rows["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!((found.as_slice(), &rows["total"]), (ids, &json!(2)), "{query}");
    }
    let csv = results("?format=csv").await;
    assert_eq!((csv.header("content-type"), csv.text.as_str()), ("text/csv", "id,total\na,1\nb,2000\n"));
    let get = |accept: &str| service.request(Method::GET, &format!("{VIEWS}/orders/results")).header("accept", accept);
    let lines = send(get("application/x-ndjson")).await;
    assert_eq!(lines.text, "{\"id\":\"a\",\"total\":1}\n{\"id\":\"b\",\"total\":2000}\n");
    let arrow = get("application/vnd.apache.arrow.stream").send().await.unwrap().bytes().await.unwrap();
    let mut arrow = arrow::ipc::reader::StreamReader::try_new(&*arrow, None).unwrap();
    assert_eq!(arrow.next().unwrap().unwrap().num_rows(), 2);
    assert_eq!(send(get("text/html")).await.status, 406);
    for (query, status, expect) in [
        ("?format=xml", 400, "'xml'"),
        ("?wher=x", 400, "did you mean 'where'?"),
        ("?where=totl%20%3E%201", 422, "totl"),
        ("?where=total%20%3E", 422, ""),
        ("?where=total", 422, ""),
        ("?where=id%20IN%20(SELECT%20id%20FROM%20feed)", 422, "a query of its own"),
        ("?where=(SELECT%20count(*)%20FROM%20rows%20a,%20rows%20b)%20%3E%201", 422, "a query of its own"),
        ("?where=true%20UNION%20SELECT%20a.*%20FROM%20rows%20a,%20rows%20b", 422, "a query of its own"),
        ("?order_by=(SELECT%20max(id)%20FROM%20rows)", 422, "a query of its own"),
        ("?order_by=id%20UNION%20SELECT%201", 422, ""),
        ("?where=true%3B%20DROP%20VIEW%20orders", 422, "a condition or an order is more than that"),
        ("?order_by=totl", 422, "totl"),
    ] {
        let problem = results(query).await.with(status);
        assert!(problem.to_string().contains(expect) && problem.get("span").is_none(), "{query}: {problem}");
    }
}

#[tokio::test]
async fn rows_are_answered_again_when_they_have_changed() {
    let (service, more) = (Service::start().await, Signal::default());
    let _server = service.with_feed(&[(&more, &[("a", 1)]), (&Signal::default(), &[("b", 2)])]).await;
    service.post(VIEWS, view("orders", "SELECT id, total FROM feed")).await.with(201);
    service.changes("orders", 1).await;
    let ask = |headers: &[(&str, &str)]| {
        let request = service.request(Method::GET, &format!("{VIEWS}/orders/results"));
        send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
    };
    let first = ask(&[]).await;
    let tag = first.header("etag");
    assert_eq!(tag, format!("\"{}\"", first.json()["position"].as_str().unwrap()));
    let same = ask(&[("if-none-match", tag)]).await;
    assert_eq!((same.status, same.text.as_str(), same.header("etag")), (304, "", tag));
    assert_eq!(ask(&[("if-none-match", "\"1-1\"")]).await.status, 200);
    // The change comes while the answer is waited for.
    let waiting = ask(&[("if-none-match", tag), ("prefer", "respond-async, wait=30")]);
    let (changed, ()) = tokio::join!(waiting, async { more.notify_one() });
    assert_eq!((changed.with(200)["count"].clone(), changed.header("preference-applied")), (json!(2), "wait=30"));
    let changes = service.get(&format!("{VIEWS}/orders/changes?after={}", tag.trim_matches('"'))).await.with(200);
    assert_eq!(changes["next"], changed.json()["position"], "rows and changes have the same ids");
    // Whoever waits for a view that goes, or for a server that stops, is told at once.
    let tag = changed.header("etag").to_string();
    let wait = [("if-none-match", tag.as_str()), ("prefer", "wait=50")];
    let (gone, ()) = tokio::join!(ask(&wait), async {
        tokio::task::yield_now().await;
        service.sql("DROP VIEW orders").await;
    });
    gone.with(404);
}

#[tokio::test]
async fn who_waits_is_told_that_the_server_stops() {
    let (service, _server) = orders().await;
    let other = Server::start([Feed::stream().stall()]).await;
    service.sql(&format!("CREATE TABLE other (id TEXT) WITH (connector = 'sse', endpoint = '{}')", other.url())).await;
    let tag = service.get(&format!("{VIEWS}/orders/results")).await.header("etag").to_string();
    let position = tag.trim_matches('"');
    let get = |path: String| service.request(Method::GET, &path);
    let endless = json!({"sql": "SELECT id FROM other", "timeout": "5 minutes"});
    let mut waiting = vec![tokio::spawn(send(with_json(service.request(Method::POST, "/v1/sql"), &endless)))];
    other.request(0).await;
    let live = service.app.streams.live("orders").unwrap();
    for request in [
        get(format!("{VIEWS}/orders/results")).header("if-none-match", &tag).header("prefer", "wait=50"),
        get(format!("{VIEWS}/orders/changes?after={position}&wait=50")),
    ] {
        // Who waits for a view holds it.
        let instances = Arc::strong_count(&live);
        waiting.push(tokio::spawn(send(request)));
        while Arc::strong_count(&live) == instances {
            tokio::task::yield_now().await;
        }
    }
    service.stop().await;
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_plan_is_a_graph_of_operators() {
    let service = Service::start().await;
    let _feed = service.with_feed(&[]).await;
    let query =
        "SELECT id, sum(total) AS total, TUMBLE(INTERVAL '1 minute') AS window FROM feed WHERE total > 0 GROUP BY id, window";
    service.post(VIEWS, view("sums", query)).await.with(201);
    let plan = service.get(&format!("{VIEWS}/sums/plan")).await.with(200);
    let nodes = plan["nodes"].as_array().unwrap();
    assert_eq!((nodes.len(), plan["edges"].as_array().unwrap().len()), (nodes.len().max(3), nodes.len() - 1), "{plan}");
    for edge in plan["edges"].as_array().unwrap() {
        assert!(edge["from"].as_u64().unwrap() < nodes.len() as u64 && edge["to"].as_u64() < edge["from"].as_u64(), "{plan}");
    }
    assert_eq!(plan["text"].as_str().unwrap().lines().count(), nodes.len());
    assert!(nodes.last().unwrap().to_string().contains("feed"), "rows come from the last one: {plan}");
}
