//! Events in a user's own words: Handlebars templates, one for each kind of change, compiled when they are given.
//!
//! A template sees `after` and `before` (the row), `query_name`, `operation` (`ADD`, `UPDATE`, `DELETE`) and `timestamp` (milliseconds).
//! `{{after.name}}` is escaped as the inside of a JSON string, `{{json after}}` is JSON, `{{default after.name "none"}}` stands in for
//! NULL, and `{{ts timestamp}}` writes milliseconds as RFC 3339. Templates reach nothing else: no files, no partials, no log.

use std::io::{self, Write};

use arrow::datatypes::Fields;
use handlebars::template::{Parameter, Template, TemplateElement};
use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, JsonRender, Output, RenderContext, RenderError, RenderErrorReason,
    ScopedJson,
};
use serde_json::{Map, Value};

use super::names;
use super::shape::Op;
use crate::error::{Code, Error, Result};
use crate::time::Timestamp;

/// Bytes of a template: far more than an event needs.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;

/// Blocks and parentheses in a template, which are read and rendered by recursion.
const MAX_BLOCKS: usize = 64;

/// Rounds of all blocks of a template: those within each other may go over one list as often as they have elements, and write nothing.
const MAX_ROUNDS: usize = 100_000;

/// A helper by a name that nobody can write.
const ROUND: &str = " round";

/// The templates of one view.
pub struct Templates {
    registry: Handlebars<'static>,
}

/// A change as a template sees it; the rows are JSON objects.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub view: &'a str,
    pub op: Op,
    pub before: Option<&'a [u8]>,
    pub after: Option<&'a [u8]>,
    pub at: Timestamp,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.registry.get_templates().keys()).finish()
    }
}

impl Templates {
    /// Compiles the templates; all errors, each with the kind of change whose template it is in.
    pub fn compile<'a>(sources: impl IntoIterator<Item = (Op, &'a str)>) -> Result<Templates, Vec<(Op, Error)>> {
        let mut registry = Handlebars::new();
        registry.register_escape_fn(escape);
        registry.set_prevent_indent(true);
        registry.unregister_helper("log");
        registry.register_helper("json", Box::new(Json));
        registry.register_helper("default", Box::new(Default));
        registry.register_helper("ts", Box::new(Ts));
        registry.register_helper(ROUND, Box::new(Round));
        let mut templates = Templates { registry };
        let mut errors = Vec::new();
        for (op, source) in sources {
            if let Err(error) = templates.add(op, source) {
                errors.push((op, error));
            }
        }
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    fn add(&mut self, op: Op, source: &str) -> Result<()> {
        within_bounds(source)?;
        let mut template = Template::compile_with_name(source, op.name().to_string()).map_err(|error| {
            let (line, column) = error.pos().unwrap_or((1, 1));
            unreadable(line, column, &error.reason().to_string())
        })?;
        count_rounds(&mut template, &round()?);
        self.registry.register_template(op.name(), template);
        // A helper that is not there shows only when it is called.
        let nothing = Subject { view: "", op, before: Some(b"{}"), after: Some(b"{}"), at: Timestamp(0) };
        match self.attempt(&nothing, MAX_TEMPLATE_BYTES) {
            Err(error) if calls_wrongly(error.reason()) => {
                let (line, column) = (error.line_no.unwrap_or(1), error.column_no.unwrap_or(1));
                Err(unreadable(line, column, &error.reason().to_string()))
            }
            _ => Ok(()),
        }
    }

    pub fn has(&self, op: Op) -> bool {
        self.registry.has_template(op.name())
    }

    /// Names that the rows of a view do not have, each with the kind of change in whose template it stands.
    pub fn misfits(&self, columns: &Fields) -> Vec<(Op, Error)> {
        let templates = Op::NAMES.iter().filter_map(|(_, op)| Some((*op, self.registry.get_template(op.name())?)));
        templates.filter_map(|(op, template)| Some((op, names::misfit(template, columns)?))).collect()
    }

    /// The event's text, of at most `bytes_max`; `None` where there is no template for this kind of change.
    pub fn render(&self, subject: &Subject, bytes_max: usize) -> Option<Result<Vec<u8>>> {
        let render = || {
            self.attempt(subject, bytes_max)
                .map_err(|error| Error::new(Code::Runtime, format!("the template for {} fails: {error}", subject.op.name())))
        };
        self.has(subject.op).then(render)
    }

    fn attempt(&self, subject: &Subject, bytes_max: usize) -> Result<Vec<u8>, RenderError> {
        let mut out = Bounded { bytes: Vec::new(), max: bytes_max, rounds: 0 };
        self.registry.render_with_context_to_write(subject.op.name(), &subject.context()?, &mut out)?;
        Ok(out.bytes)
    }
}

impl Subject<'_> {
    fn context(&self) -> Result<Context, RenderError> {
        let mut members = Map::new();
        for (name, row) in [("before", self.before), ("after", self.after)] {
            if let Some(row) = row {
                members.insert(name.into(), serde_json::from_slice(row).map_err(RenderErrorReason::from)?);
                members.insert(text_of(name), String::from_utf8_lossy(row).into());
            }
        }
        members.insert("query_name".into(), self.view.into());
        members.insert("operation".into(), self.op.drasi().into());
        members.insert("timestamp".into(), self.at.nanos().div_euclid(1_000_000).into());
        Context::wraps(Value::Object(members))
    }
}

/// The member that keeps a row's own JSON text, whose numbers have digits that `f64` has not.
fn text_of(row: &str) -> String {
    format!("{row} as text")
}

/// `{{json value}}`: the value as JSON.
struct Json;

impl HelperDef for Json {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let value = helper.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex("json", 0))?;
        let row = match value.context_path().map(Vec::as_slice) {
            Some([name]) => context.data().get(text_of(name)).and_then(Value::as_str),
            _ => None,
        };
        match row {
            Some(text) => out.write(text)?,
            None => out.write(&value.value().to_string())?,
        }
        Ok(())
    }
}

/// `{{default value "instead"}}`: the value, or the second where the first is missing or NULL.
struct Default;

impl HelperDef for Default {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let param = |index| helper.param(index).ok_or(RenderErrorReason::ParamNotFoundForIndex("default", index));
        let (value, instead) = (param(0)?, param(1)?);
        let chosen = if value.value().is_null() { instead } else { value };
        Ok(ScopedJson::Derived(chosen.value().clone()))
    }
}

/// `{{ts milliseconds}}`: RFC 3339 in UTC; without an argument the time of the change. Text passes as it is.
struct Ts;

impl HelperDef for Ts {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let value = helper.param(0).map(|param| param.value()).or_else(|| context.data().get("timestamp"));
        let nanos = |millis: i64| millis.checked_mul(1_000_000).map(Timestamp);
        let text = match value.and_then(Value::as_i64).and_then(nanos) {
            Some(time) => time.to_string(),
            None => value.map(JsonRender::render).unwrap_or_default(),
        };
        Ok(ScopedJson::Derived(text.into()))
    }
}

/// At the end of each round of a block: tells the writer, to which the round may have written nothing.
struct Round;

impl HelperDef for Round {
    fn call<'reg: 'rc, 'rc>(
        &self,
        _: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        Ok(out.write("")?)
    }
}

/// A call of [`Round`].
fn round() -> Result<TemplateElement> {
    match Template::compile("{{round}}").map(|mut template| template.elements.pop()) {
        Ok(Some(TemplateElement::Expression(mut call))) => {
            call.name = Parameter::Name(ROUND.into());
            Ok(TemplateElement::Expression(call))
        }
        other => Err(Error::bug(format!("the call of a helper is {other:?}"))),
    }
}

/// Puts `round` at the end of each block. Blocks are at most as deep as [`MAX_BLOCKS`] allows.
fn count_rounds(template: &mut Template, round: &TemplateElement) {
    for element in &mut template.elements {
        if let TemplateElement::HelperBlock(block) = element {
            for inner in [&mut block.template, &mut block.inverse].into_iter().flatten() {
                count_rounds(inner, round);
                inner.elements.push(round.clone());
            }
        }
    }
}

/// The inside of a JSON string with this text.
fn escape(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_string()
}

/// Refuses what makes reading or rendering expensive beyond the size of a template, and templates within templates.
fn within_bounds(source: &str) -> Result<()> {
    if source.len() > MAX_TEMPLATE_BYTES {
        let message = format!("a template of {} bytes is too long", source.len());
        return Err(Error::new(Code::BadOption, message).hint(format!("keep it below {MAX_TEMPLATE_BYTES} bytes")));
    }
    let mut blocks = 0;
    for (place, _) in source.match_indices("{{") {
        let tag = source[place..].trim_start_matches(['{', '~']).trim_start();
        let inner = tag.strip_prefix('#').map_or(tag, str::trim_start);
        let refused = |what: &str| {
            let before = &source[..place];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
            Err(unreadable(line, column, what))
        };
        if inner.starts_with(['>', '*']) {
            return refused("partials and inline templates are not available");
        }
        let end = tag.find("}}").unwrap_or(tag.len());
        blocks += usize::from(tag.starts_with(['#', '^']) || tag.starts_with("else")) + tag[..end].matches('(').count();
        if blocks > MAX_BLOCKS {
            return refused(&format!("it has more than {MAX_BLOCKS} blocks"));
        }
    }
    Ok(())
}

fn unreadable(line: usize, column: usize, reason: &str) -> Error {
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::new(Code::BadOption, format!("the template cannot be used, line {line} column {column}: {reason}"))
        .hint("write {{json after}} for a row, {{after.name}} for a value in quotes")
}

/// Whether a template calls something that is not there, or without what it needs.
fn calls_wrongly(reason: &RenderErrorReason) -> bool {
    matches!(
        reason,
        RenderErrorReason::HelperNotFound(_)
            | RenderErrorReason::DecoratorNotFound(_)
            | RenderErrorReason::PartialNotFound(_)
            | RenderErrorReason::ParamNotFoundForIndex(..)
            | RenderErrorReason::ParamNotFoundForName(..)
    )
}

/// Takes so many bytes, made in so many rounds, and no more.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
    rounds: usize,
}

impl Write for &mut Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > self.max {
            return Err(io::Error::other(format!("it makes more than {} bytes", self.max)));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    /// Comes also for nothing, see [`Round`].
    fn write_all(&mut self, more: &[u8]) -> io::Result<()> {
        self.rounds += usize::from(more.is_empty());
        if self.rounds > MAX_ROUNDS {
            return Err(io::Error::other(format!("its blocks have more than {MAX_ROUNDS} rounds")));
        }
        self.write(more).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(template: &str, after: &str) -> String {
        let templates = Templates::compile([(Op::Added, template)]).unwrap();
        let at = Timestamp(1_772_366_400_500_000_000);
        let subject = Subject { view: "orders", op: Op::Added, before: None, after: Some(after.as_bytes()), at };
        String::from_utf8(templates.render(&subject, 1000).unwrap().unwrap()).unwrap()
    }

    fn refused(template: &str) -> String {
        Templates::compile([(Op::Added, template)]).unwrap_err().remove(0).1.message().to_string()
    }

    #[test]
    fn templates_of_the_documentation_render() {
        let row = r#"{"id":"1","sku":"a \"b\"","quantity":3}"#;
        for (template, text) in [
            (r#"{"event":"new","sensor":{{json after}}}"#, r#"{"event":"new","sensor":{"id":"1","sku":"a \"b\"","quantity":3}}"#),
            (r#"{"type":"stock","sku":"{{after.sku}}","qty":{{after.quantity}}}"#, r#"{"type":"stock","sku":"a \"b\"","qty":3}"#),
            ("CRITICAL: {{after.id}} = {{after.quantity}}{{after.unit}}", "CRITICAL: 1 = 3"),
        ] {
            assert_eq!(rendered(template, row), text);
        }
    }

    #[test]
    fn values_are_escaped_as_the_inside_of_a_json_string() {
        let row = r#"{"a":"<b> & 'c' \"d\" \\ \n \u0001 é"}"#;
        assert_eq!(rendered(r#"{"a":"{{after.a}}"}"#, row), r#"{"a":"<b> & 'c' \"d\" \\ \n \u0001 é"}"#);
        assert_eq!(rendered("{{{after.a}}}", r#"{"a":"\"as it is\""}"#), "\"as it is\"");
    }

    #[test]
    fn a_row_as_json_keeps_every_digit() {
        let row = r#"{"price":12345678901234567890.10,"n":18446744073709551615}"#;
        assert_eq!(rendered("{{json after}}", row), row);
        assert_eq!(rendered("{{#with after}}{{json this}}{{/with}}", row), row);
        assert_eq!(rendered("{{json after.n}} {{json before}}", row), "18446744073709551615 null");
    }

    #[test]
    fn helpers_and_variables_are_there() {
        for (template, text) in [
            ("{{query_name}} {{operation}} {{timestamp}}", "orders ADD 1772366400500"),
            ("{{ts}} {{ts after.at}} {{ts after.day}}", "2026-03-01T12:00:00.5Z 1970-01-01T00:00:01Z today"),
            (r#"{{default after.none "a \"b\""}} {{default after.at 5}}"#, r#"a \"b\" 1000"#),
            ("{{after.window.start}} {{after.[a b]}}", "s ab"),
            ("{{#if (gt after.at 5)}}big{{else}}small{{/if}}", "big"),
        ] {
            assert_eq!(rendered(template, r#"{"at":1000,"day":"today","window":{"start":"s"},"a b":"ab"}"#), text);
        }
    }

    #[test]
    fn a_bad_template_is_refused_with_its_place() {
        let starts = [
            ("{\n {{json after}", "the template cannot be used, line 2 column"),
            ("{{#if after}}x", "the template cannot be used, line 1 column"),
            ("x\n{{> other}}", "the template cannot be used, line 2 column 1: partials and inline templates are not available"),
            ("{{#*inline \"a\"}}{{/inline}}", "the template cannot be used, line 1 column 1: partials"),
            ("{{~ # > a}}{{/a}}", "the template cannot be used, line 1 column 1: partials"),
            ("{{jsno after}}", "the template cannot be used, line 1 column 1: Helper not found jsno"),
            ("{{log after.id}}", "the template cannot be used, line 1 column 1: Helper not found log"),
            ("{{json}}", "the template cannot be used, line 1 column 1: Helper/Decorator json param at index 0 required"),
        ];
        for (template, start) in starts {
            let message = refused(template);
            assert!(message.starts_with(start), "{message}");
        }
        let nested = "{{#if a}}".repeat(10_000);
        assert!(refused(&nested).contains("too long"));
        assert!(refused(&nested[..9000]).contains("more than 64 blocks"));
        assert!(refused(&format!("{{{{json {}", "(".repeat(9000))).contains("more than 64 blocks"));
    }

    #[test]
    fn a_text_without_end_fails() {
        let templates = Templates::compile([(Op::Added, "{{#each after.many}}{{json ../after}}{{/each}}")]).unwrap();
        let row = format!(r#"{{"many":[{}0]}}"#, "0,".repeat(200));
        let subject = Subject { view: "v", op: Op::Added, before: None, after: Some(row.as_bytes()), at: Timestamp(0) };
        let error = templates.render(&subject, 1000).unwrap().unwrap_err();
        assert!(error.message().contains("more than 1000 bytes"), "{error}");
        assert!(templates.render(&Subject { op: Op::Deleted, ..subject }, 1000).is_none());
    }

    #[test]
    fn blocks_that_go_over_the_same_again_and_again_fail() {
        let [open, close] = ["{{#each @root.after.a}}", "{{/each}}"].map(|tag| tag.repeat(40));
        let templates = Templates::compile([(Op::Added, format!("{open}{close}").as_str())]).unwrap();
        let subject = Subject { view: "v", op: Op::Added, before: None, after: Some(br#"{"a":[1,2]}"#), at: Timestamp(0) };
        let error = templates.render(&subject, 1000).unwrap().unwrap_err();
        assert!(error.message().contains("its blocks have more than 100000 rounds"), "{error}");
        assert_eq!(rendered("{{#each after.a}}{{this}},{{else}}none{{/each}}", r#"{"a":[1,2]}"#), "1,2,");
    }

    proptest! {
        #[test]
        fn no_template_and_no_row_brings_the_program_down(
            template in "([{]{2,3}|[}]{2,3}|[-#/^&>*!~@.\\[\\]()|\"'=é\n]|if|else|each|json|ts|default|lookup|with|raw|after|this| ){0,25}",
        ) {
            if let Ok(templates) = Templates::compile([(Op::Added, template.as_str())]) {
                let row = br#"{"a":[1,{"b":null}],"after":"x"}"#;
                let subject = Subject { view: "v", op: Op::Added, before: None, after: Some(row), at: Timestamp(0) };
                let _ = templates.render(&subject, 1000);
            }
        }
    }
}
