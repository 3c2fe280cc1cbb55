//! What settings are read as, and how mistakes in them are told.

use tempfile::TempDir;

use super::*;

fn read_with(text: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Settings> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("streamgauge.toml");
    std::fs::write(&file, text).unwrap();
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let flags = Flags { config: Some(file), ..flags };
    Settings::read(&flags, |name| environment.get(name).cloned(), environment.keys().cloned())
}

fn read(text: &str) -> Result<Settings> {
    read_with(text, &[("PORT", "9000")], Flags::default())
}

#[test]
fn nothing_said_means_the_defaults() {
    let settings = Settings::read(&Flags::default(), |_| None, std::iter::empty()).unwrap();
    assert_eq!(settings.bind.to_string(), "127.0.0.1:8000");
    assert_eq!((settings.http.streams_max, settings.http.body_bytes_max), (1_000, 1_048_576));
    assert_eq!(settings.http.heartbeat, Duration::from_secs(30));
    settings.check(false).unwrap();
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let text = "bind = '127.0.0.1:1'\ndata = 'file'\n[http]\nhosts = ['a']\nheartbeat = '5s'\n[log]\nformat = 'json'";
    let environment =
        [("STREAMGAUGE_BIND", "127.0.0.1:2"), ("STREAMGAUGE_HTTP__HOSTS", "b, c"), ("STREAMGAUGE_DATA", "environment")];
    let flags = Flags { bind: Some("localhost:3".into()), ..Flags::default() };
    let settings = read_with(text, &environment, flags).unwrap();
    assert_eq!(settings.bind.port(), 3);
    assert_eq!(settings.data, Some("environment".into()));
    assert_eq!(settings.http.hosts.0, ["b", "c"]);
    assert_eq!(settings.http.heartbeat, Duration::from_secs(5));
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn environment_values_are_read_as_toml_and_strange_ones_are_left_alone() {
    let environment = [
        ("STREAMGAUGE_HTTP__STREAMS_MAX", "7"),
        ("STREAMGAUGE_FEEDS__FILES", "true"),
        ("STREAMGAUGE_FEEDS__ALLOW_HOSTS", "[\"a\", \"b\"]"),
        ("STREAMGAUGE_PORT", "tcp://10.0.0.1:80"),
        ("STREAMGAUGE_SECRET_X", "y"),
        ("STREAMGAUGE_TOKEN", "1234567890123456"),
    ];
    let settings = read_with("", &environment, Flags::default()).unwrap();
    assert_eq!((settings.http.streams_max, settings.feeds.files), (7, true));
    assert_eq!(settings.feeds.allow_hosts.0, ["a", "b"]);
    assert_eq!(settings.auth.token.unwrap().expose_secret(), "1234567890123456");
    let error = read_with("", &[("STREAMGAUGE_HTTP__HOST", "a")], Flags::default()).unwrap_err();
    assert_eq!(error.to_string(), "unknown setting 'host'; did you mean 'hosts'?");
}

#[test]
fn variables_and_files_are_filled_in() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef\n").unwrap();
    let text = format!(
        "bind = '127.0.0.1:${{PORT}}'\ndata = '${{DIR:-/var/lib}}/x$${{y}}'\nstreams = [{{ id = '${{PORT}}' }}]\n[auth]\ntoken = '${{file:{}}}'",
        secret.display()
    );
    let settings = read(&text).unwrap();
    assert_eq!(settings.bind.port(), 9000);
    assert_eq!(settings.data, Some("/var/lib/x${y}".into()));
    assert_eq!(settings.streams, [serde_json::json!({"id": "9000"})]);
    assert!(!format!("{settings:?}").contains("0123456789abcdef"));
    assert_eq!(settings.auth.token.unwrap().expose_secret(), "0123456789abcdef");
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, expect, line, column) in [
        ("bind = ", "is no TOML: ", 1, 8),
        ("data = 'x'\n[http]\nhots = ['a']", "unknown setting 'hots' (", 3, 1),
        ("[http]\nstreams_max = 'many'", "the setting 'http.streams_max': expected a whole number from 0, found a text", 2, 1),
        ("bind = 'example.com:80'", "the setting 'bind': 'example.com:80' is no address with a port", 1, 1),
        ("[http]\nheartbeat = '5'", "the setting 'http.heartbeat': '5' has no unit", 2, 1),
        ("[log]\nformat = 'jsn'", "the setting 'log.format': 'jsn' is not known here", 2, 1),
        ("data = '${NOT_SET}'", "the setting 'data' needs the environment variable NOT_SET, which is not set", 1, 1),
        ("[[auth.tokens]]\nname = 'a'\ntoken = '0123456789abcdef'", "the setting 'scopes' is missing", 1, 1),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.message().contains(expect), "{text}: {error}");
        let start = error.span().unwrap_or_else(|| panic!("{text}: {error} has no place")).start;
        assert_eq!((start.line, start.column), (line, column), "{text}: {error}");
    }
    let error = read("[http]\nhots = ['a']").unwrap_err();
    assert_eq!(error.way_out(), Some("did you mean 'hosts'?"));
}

#[test]
fn strangers_are_kept_out_unless_told_otherwise() {
    let open = read("bind = '0.0.0.0:8000'").unwrap();
    let error = open.check(false).unwrap_err();
    assert!(error.to_string().contains("give --insecure-no-auth"), "{error}");
    open.check(true).unwrap();
    assert!(read("listeners = '[::]:80'").unwrap().check(false).is_err());
    read("bind = '0.0.0.0:8000'\n[auth]\ninsecure_no_auth = true").unwrap().check(false).unwrap();
    read("bind = '0.0.0.0:8000'\n[auth]\ntoken = '0123456789abcdef'").unwrap().check(false).unwrap();
    let error = read("[auth]\ntoken = 'hush'").unwrap_err();
    assert!(error.message().contains("less than 16 characters") && !error.to_string().contains("hush"), "{error}");
}

#[test]
fn not_every_page_may_read_everything() {
    let error = read("[http]\ncors_origins = '*'").unwrap_err();
    assert!(error.to_string().contains("a public stream"), "{error}");
}

#[test]
fn feeds_may_use_what_the_settings_name() {
    for (text, allowed, refused) in [
        ("", "AWS_KEY", "STREAMGAUGE_TOKEN"),
        ("bind = '0.0.0.0:1'", "STREAMGAUGE_SECRET_X", "AWS_KEY"),
        ("streams = [{ id = 'a', host = '0.0.0.0' }]", "STREAMGAUGE_SECRET_X", "AWS_KEY"),
        ("[secrets]\nenv = ['A', 'B_*']", "B_1", "AB"),
        ("bind = '0.0.0.0:1'\n[secrets]\nenv = '*'", "AWS_KEY", "STREAMGAUGE_AUTH__TOKEN"),
    ] {
        let policy = crate::serve::start::policy(&read(text).unwrap(), false, &crate::feed::SecretValues::default());
        assert!(policy.check_variable(allowed).is_ok() && policy.check_variable(refused).is_err(), "{text}");
    }
}
