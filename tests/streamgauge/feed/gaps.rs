//! Gaps: what may have been missed between two connections, and what surely was not.

use streamgauge::feed::{FeedPosition, Gap};

use super::{feed, run, take};
use crate::support::server::{Answer, Server};

fn numbered(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|id| format!("id: {id}\ndata: {id}\n\n")).collect()
}

/// Reads one connection after another to their end; gives what was handed on, and the gaps as `last..next missing reason`.
async fn read(connections: &[&str], options: &[(&str, &str)]) -> (String, Vec<String>) {
    let answers = connections.iter().map(|text| Answer::stream().text(text)).chain([Answer::status(204)]);
    let server = Server::start(answers.collect::<Vec<_>>()).await;
    let feed = feed(&server.url(), options);
    let status = feed.status().clone();
    let run = run(feed).await;
    let gaps = status.gaps().entries_kept();
    assert_eq!((run.status.gaps, run.status.gap_time.is_zero()), (gaps.len() as u64, gaps.is_empty()));
    (run.data().join(" "), gaps.iter().map(shown).collect())
}

fn shown(gap: &Gap) -> String {
    assert!(gap.from < gap.to, "{gap:?}");
    let missing = gap.missing.map(|missing| missing.to_string()).unwrap_or("?".into());
    format!("{}..{} {missing} {}", gap.last_id, gap.next_id, gap.reason.as_str())
}

#[tokio::test]
async fn a_feed_without_ids_has_a_gap_at_every_reconnect() {
    let (data, gaps) = read(&[":\n\n", "data: a\n\n", "data: b\n\ndata: c\n\n", ": nothing\n\n", "data: d\n\n"], &[]).await;
    assert_eq!((data.as_str(), gaps), ("a b c d", vec![".. ? no_ids".to_string(), ".. ? no_ids".into()]));
}

#[tokio::test]
async fn a_feed_that_is_not_to_resume_has_gaps_unless_its_ids_count_on() {
    let resume_off = [("resume", "off")];
    let (_, gaps) = read(&["id: a\ndata: a\n\n", "id: b\ndata: b\n\n"], &resume_off).await;
    assert_eq!(gaps, ["a..b ? resume_off"]);
    let (_, gaps) = read(&[&numbered(1..=10), &numbered(11..=12), &numbered(20..=21)], &resume_off).await;
    assert_eq!(gaps, ["12..20 7 resume_off"]);
}

#[tokio::test]
async fn a_server_that_does_not_go_on_where_it_was_asked_to_leaves_a_gap() {
    let (data, gaps) = read(&[&numbered(1..=10), &numbered(14..=14), &numbered(1..=2)], &[]).await;
    assert_eq!(data, "1 2 3 4 5 6 7 8 9 10 14");
    // What it sends anew from its beginning is known.
    assert_eq!(gaps, ["10..14 3 skipped"]);
    let (_, gaps) = read(&[&numbered(101..=110), &numbered(1..=2)], &[]).await;
    assert_eq!(gaps, ["110..1 ? renumbered"]);
}

#[tokio::test]
async fn a_server_that_says_that_it_goes_on_elsewhere_leaves_a_gap() {
    let server = Server::start([
        Answer::stream().text("id: a\ndata: a\n\n"),
        Answer::stream().header("Last-Event-ID", "c").text("id: d\ndata: d\n\n"),
        Answer::status(204),
    ])
    .await;
    let feed = feed(&server.url(), &[]);
    let status = feed.status().clone();
    run(feed).await;
    assert_eq!(status.gaps().entries_kept().iter().map(shown).collect::<Vec<_>>(), ["a..d ? elsewhere"]);
}

#[tokio::test]
async fn an_id_that_no_header_can_carry_leaves_a_gap() {
    let event = "id: a\u{1}b\ndata: a\n\n";
    assert_eq!(read(&[event, "id: c\ndata: c\n\n"], &[]).await.1, ["a\u{1}b..c ? unsendable"]);
    assert!(read(&[event, "id: c\ndata: c\n\n"], &[("resume", "query:since")]).await.1.is_empty());
}

#[tokio::test]
async fn a_server_that_resumes_leaves_no_gap_however_far_it_goes_back() {
    for second in [11, 10, 4] {
        let (data, gaps) = read(&[&numbered(1..=10), &numbered(second..=12)], &[]).await;
        assert_eq!((data.split(' ').count(), gaps.len()), (12, 0), "{second}");
        let (data, gaps) = read(&[&numbered(1..=10), &numbered(second..=12)], &[("deduplicate", "false")]).await;
        assert_eq!((data.split(' ').count(), gaps.len()), (10 + 13 - second as usize, 0), "{second}, kept twice");
    }
    assert!(read(&["id: a\ndata: a\n\n", "id: x\ndata: b\n\n"], &[]).await.1.is_empty());
}

#[tokio::test]
async fn an_event_that_was_too_large_is_not_missing() {
    let large = format!("id: 10\ndata: {}\n\n", "x".repeat(2000));
    let (_, gaps) =
        read(&[&(numbered(1..=9) + &large + &numbered(11..=11)), &numbered(13..=13)], &[("max_event_bytes", "1KiB")]).await;
    assert_eq!(gaps, ["11..13 1 skipped"]);
}

#[tokio::test]
async fn a_position_remembers_what_tells_gaps() {
    let script = [Answer::stream().text(&numbered(1..=10)).stall(), Answer::stream().text(&numbered(13..=13)).stall()];
    let server = Server::start(script).await;
    let mut before = feed(&server.url(), &[]);
    assert_eq!(before.position(), FeedPosition::after(""));
    take(&mut before, 10).await;
    let position = before.position();
    let mut after = feed(&server.url(), &[]);
    after.resume_at(&position);
    take(&mut after, 1).await;
    let gaps = after.status().gaps().entries_kept();
    assert_eq!(gaps.iter().map(shown).collect::<Vec<_>>(), ["10..13 2 skipped"]);
    assert_eq!(Some(gaps[0].from), position.last_at);
}

/// Events with these ids whose data differ in the middle only, as those of a gauge do.
fn levels(range: std::ops::RangeInclusive<u32>, level: &str) -> String {
    let event = |id| format!("id: {id}\ndata: {{\"station\":\"north-1\",\"level\":{level},\"unit\":\"metres above datum\"}}\n\n");
    range.map(event).collect()
}

#[tokio::test]
async fn a_feed_that_numbers_its_events_from_one_again_counts_whole_and_leaves_a_gap() {
    for (before, after) in [(3, 3), (3, 5), (20, 12), (20, 20), (20, 30), (3000, 12)] {
        let (data, gaps) = read(&[&levels(1..=before, "3.75"), &levels(1..=after, "4.75")], &[]).await;
        let counted = ["3.75", "4.75"].map(|level| data.matches(level).count() as u32);
        assert_eq!((counted, gaps), ([before, after], vec![format!("{before}..1 ? renumbered")]));
    }
}

#[tokio::test]
async fn a_stretch_that_may_be_missing_is_told_however_little_is_known_of_ids() {
    let left_out = numbered(1..=9) + &numbered(11..=20);
    for (first, next, expected) in [
        (numbered(1..=3), numbered(104..=110), "3..104 100 maybe_skipped"),
        (left_out, numbered(121..=130), "20..121 100 skipped"),
        (numbered(1..=20) + "event: ping\ndata: p\n\n", "data: q\n\n".to_string() + &numbered(31..=33), "20..31 10 skipped"),
    ] {
        let (_, gaps) = read(&[&first, &next], &[]).await;
        assert_eq!(gaps, [expected]);
    }
    let (_, gaps) = read(&[&numbered(1..=20), "id: 21\n\n", &("id: 22\n\n".to_string() + &numbered(23..=24))], &[]).await;
    assert!(gaps.is_empty(), "ids without events are no events: {gaps:?}");
}

#[tokio::test]
async fn a_cut_within_what_is_sent_again_leaves_no_gap() {
    let (data, gaps) = read(&[&numbered(1..=30), &numbered(20..=25), &numbered(31..=33)], &[]).await;
    assert_eq!((data.split(' ').count(), gaps.len()), (33, 0));
}

#[tokio::test]
async fn a_server_that_renders_events_anew_sends_each_of_them_once() {
    let sent = |range: std::ops::RangeInclusive<u32>, sent: u32| -> String {
        range.map(|id| format!("id: {id}\ndata: {{\"id\":{id},\"sent\":{sent}}}\n\n")).collect()
    };
    for back in [100, 60, 51] {
        let server = Server::start([
            Answer::stream().text(&sent(1..=100, 1)),
            Answer::stream().text(&sent(back..=110, 2)),
            Answer::status(204),
        ])
        .await;
        let run = run(feed(&server.url(), &[])).await;
        assert_eq!((run.events.len(), run.status.gaps), (110, 0), "from {back}");
        // Of the events of a busy read only some are digested, and the hundredth is none of them.
        let is_told = run.status.warnings.iter().any(|warning| warning.contains("other contents"));
        assert_eq!(is_told, back < 100, "from {back}: {:?}", run.status.warnings);
    }
}
