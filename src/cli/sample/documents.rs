//! Feeds of documents: repository events, news, edits of an encyclopedia. All names and texts are made up.

use super::{Event, Pieces, Shape, Turn, pick};

const PEOPLE: [&str; 12] =
    ["mira", "tobias", "okafor", "lin", "svea", "dmitri", "ana-paula", "kenji", "ruth", "farid", "noor", "release-bot"];

/// `{"event_type","repo_name","actor","action","payload","created_at"}`.
pub(super) struct Github {
    pub repositories: u64,
}

impl Shape for Github {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        let repository = turn.rng.u64(..self.repositories);
        let name = ["otter", "heron", "willow", "ferry", "lock", "delta", "reed", "gravel"][repository as usize % 8];
        let actor = pick(turn.rng, &PEOPLE);
        event.kind = "";
        let out = &mut event.data;
        let (kind, action) = match turn.rng.u8(..10) {
            0..=4 => ("PushEvent", "null"),
            5 | 6 => ("IssuesEvent", pick(turn.rng, &["\"opened\"", "\"closed\"", "\"reopened\""])),
            7 => ("PullRequestEvent", pick(turn.rng, &["\"opened\"", "\"closed\""])),
            8 => ("WatchEvent", "\"started\""),
            _ => ("ForkEvent", "null"),
        };
        out.raw(r#"{"event_type":""#).raw(kind).raw(r#"","repo_name":"riverside/"#).raw(name);
        if repository >= 8 {
            out.raw("-").int(repository as i64);
        }
        out.raw(r#"","actor":""#).raw(actor).raw(r#"","action":"#).raw(action).raw(r#","payload":"#);
        match kind {
            "PushEvent" => {
                let commits = turn.rng.i64(1..5);
                out.raw(r#"{"ref":"refs/heads/"#).raw(pick(turn.rng, &["main", "next", "fix/gauge"]));
                out.raw(r#"","size":"#).int(commits).raw(r#","commits":["#);
                for commit in 0..commits {
                    out.raw(if commit == 0 { "" } else { "," }).raw(r#"{"sha":""#).hex(40, turn.rng);
                    out.raw(r#"","message":""#)
                        .raw(pick(turn.rng, &["Fix the lock", "Read the \\\"level\\\" twice", "Tidy"]))
                        .raw("\"}");
                }
                out.raw("]}");
            }
            "IssuesEvent" | "PullRequestEvent" => {
                out.raw(r#"{"number":"#).int(turn.rng.i64(1..900)).raw(r#","labels":["#);
                out.raw(pick(turn.rng, &["", "\"bug\"", "\"bug\",\"docs\""])).raw("]}");
            }
            _ => {
                out.raw("{}");
            }
        }
        out.raw(r#","created_at":""#).time(&mut turn).raw("\"}");
        true
    }
}

/// `{"type","article_id","title","category","source","summary","url","published_at"}`.
pub(super) struct News {
    pub sources: u64,
}

impl Shape for News {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        const SUBJECTS: [(&str, &str); 6] = [
            ("weather", "Heavy rain over the upper valley"),
            ("weather", "Frost before the weekend"),
            ("traffic", "Bridge closed to lorries"),
            ("sport", "Rowers win by a length"),
            ("economy", "Harbour takes on more grain"),
            ("culture", "Café “Zur Mühle” reopens"),
        ];
        event.kind = if turn.rng.u8(..5) == 0 { "breaking_news" } else { "update" };
        let (category, title) = SUBJECTS[turn.rng.usize(..SUBJECTS.len())];
        let source = ["River Post", "Valley Radio", "The Ferryman", "Morning Gauge", "Lock & Weir", "Delta Today"];
        let source_number = turn.rng.u64(..self.sources);
        let out = &mut event.data;
        out.raw(r#"{"type":""#).raw(event.kind).raw(r#"","article_id":"a-"#).int(100_000 + turn.number as i64);
        out.raw(r#"","title":""#).raw(title).raw(r#"","category":""#).raw(category).raw(r#"","source":""#);
        out.raw(source[source_number as usize % source.len()]);
        if source_number as usize >= source.len() {
            out.raw(" ").int(source_number as i64);
        }
        out.raw(r#"","summary":"#);
        match turn.rng.u8(..3) {
            0 => out.raw("null"),
            1 => out.raw(r#""Read on: \"it rose by ten centimetres\", says the keeper.""#),
            _ => out.raw(r#""More in the course of the day.""#),
        };
        out.raw(r#","url":"https://news.example/"#).raw(category).raw("/").hex(8, turn.rng);
        out.raw(r#"","published_at":""#).time(&mut turn).raw("\"}");
        true
    }
}

/// Edits of an encyclopedia, in the form of Wikimedia's `recentchange`.
pub(super) struct Wikipedia {
    pub pages: u64,
}

impl Shape for Wikipedia {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        const WIKIS: [(&str, &str, &str); 6] = [
            ("en.wikipedia.org", "enwiki", "River gauge"),
            ("de.wikipedia.org", "dewiki", "Flusspegel (Begriffsklärung)"),
            ("ja.wikipedia.org", "jawiki", "河川の水位"),
            ("he.wikipedia.org", "hewiki", "מד נהר"),
            ("commons.wikimedia.org", "commonswiki", "File:Staff gauge \\\"A\\\".jpg"),
            ("www.wikidata.org", "wikidatawiki", "Q10029"),
        ];
        let (domain, wiki, title) = WIKIS[turn.rng.usize(..WIKIS.len())];
        let page = turn.rng.i64(0..self.pages as i64);
        let offset = 5_000_000_000 + turn.number as i64;
        let seconds = turn.time.nanos().div_euclid(1_000_000_000);
        let kind = match turn.rng.u8(..10) {
            0 => "categorize",
            1 => "new",
            2 => "log",
            _ => "edit",
        };
        let flag = |yes: bool| if yes { "true" } else { "false" };
        let user = pick(turn.rng, &PEOPLE);
        let bot = user.ends_with("bot");
        let old = turn.rng.i64(200..90_000);
        let new = if kind == "new" { old } else { (old + turn.rng.i64(-400..600)).max(1) };
        let revision = 1_200_000_000 + turn.number as i64 * 3;

        event.kind = "message";
        event.id.clear();
        event.id.push_str(r#"[{"topic":"eqiad.mediawiki.recentchange","partition":0,"offset":"#);
        event.id.push_str(itoa::Buffer::new().format(offset));
        event.id.push_str(r#"},{"topic":"codfw.mediawiki.recentchange","partition":0,"offset":-1}]"#);

        let out = &mut event.data;
        out.raw(r#"{"$schema":"/mediawiki/recentchange/1.0.0","meta":{"uri":"https://"#).raw(domain).raw("/wiki/Page_").int(page);
        out.raw(r#"","request_id":""#)
            .hex(8, turn.rng)
            .raw("-")
            .hex(4, turn.rng)
            .raw("-4")
            .hex(3, turn.rng)
            .raw("-a")
            .hex(3, turn.rng);
        out.raw("-").hex(12, turn.rng).raw(r#"","id":""#).hex(8, turn.rng).raw("-").hex(4, turn.rng).raw("-4").hex(3, turn.rng);
        out.raw("-b").hex(3, turn.rng).raw("-").hex(12, turn.rng).raw(r#"","domain":""#).raw(domain);
        out.raw(r#"","stream":"mediawiki.recentchange","topic":"eqiad.mediawiki.recentchange","partition":0,"offset":"#)
            .int(offset);
        out.raw(r#","dt":""#)
            .time(&mut turn)
            .raw(r#""},"id":"#)
            .int(1_700_000_000 + turn.number as i64)
            .raw(r#","type":""#)
            .raw(kind);
        out.raw(r#"","namespace":"#)
            .raw(pick(turn.rng, &["0", "0", "0", "1", "4", "14"]))
            .raw(r#","page_id":"#)
            .int(70_000 + page);
        out.raw(r#","title":""#)
            .raw(title)
            .raw(" ")
            .int(page)
            .raw(r#"","title_url":"https://"#)
            .raw(domain)
            .raw("/wiki/Page_")
            .int(page);
        out.raw(r#"","comment":""#).raw(pick(turn.rng, &COMMENTS)).raw(r#"","timestamp":"#).int(seconds);
        out.raw(r#","user":""#).raw(user).raw(r#"","user_id":"#).int(turn.rng.i64(1_000..9_000_000));
        out.raw(r#","bot":"#)
            .raw(flag(bot))
            .raw(r#","minor":"#)
            .raw(flag(turn.rng.bool()))
            .raw(r#","patrolled":"#)
            .raw(flag(bot));
        out.raw(r#","notify_url":"https://"#)
            .raw(domain)
            .raw("/w/index.php?diff=")
            .int(revision)
            .raw("&oldid=")
            .int(revision - 1);
        out.raw("&rcid=").int(1_700_000_000 + turn.number as i64).raw(r#"","length":{"old":"#);
        if kind == "new" { out.raw("null") } else { out.int(old) }.raw(r#","new":"#).int(new);
        out.raw(r#"},"revision":{"old":"#).int(revision - 1).raw(r#","new":"#).int(revision);
        out.raw(r#"},"performer":{"user_text":""#).raw(user).raw(r#"","edit_count":"#).int(turn.rng.i64(1..400_000));
        out.raw(r#","is_temp":false,"groups":["*","user"#).raw(if bot { "\",\"bot" } else { "" });
        out.raw(r#""],"registration_dt":"2014-05-06T07:08:09Z"},"server_url":"https://"#).raw(domain);
        out.raw(r#"","server_name":""#).raw(domain).raw(r#"","server_script_path":"/w","wiki":""#).raw(wiki);
        out.raw(r#"","tags":["mobile edit","visualeditor"],"content_model":"wikitext","parsedcomment":""#).raw(PARSED).raw("\"}");
        true
    }
}

const COMMENTS: [&str; 4] = [
    "",
    "/* See also */ a link to the upper reach, see [[Talk:River gauge#Datum]]",
    "Übersetzung ergänzt — “Pegelnullpunkt”",
    "removed \\\"citation needed\\\", source: yearbook of the water board, p. 212\\u2013214",
];

const PARSED: &str = r#"<span dir=\"auto\"><span class=\"autocomment\"><a href=\"/wiki/River_gauge#See_also\" title=\"River gauge\">\u2192See also</a>: </span> a link to the upper reach, see <a href=\"/wiki/Talk:River_gauge#Datum\" title=\"Talk:River gauge\">Talk:River gauge#Datum</a></span>"#;
