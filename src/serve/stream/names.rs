//! Which names of a template mean something in the rows of a view: `{{after.wikki}}` of a view with a column `wiki` does not.
//!
//! A name is looked up where its block stands: `{{#with after}}{{id}}{{/with}}` is the column `id`. Where nothing is known, as within an
//! element of a list or a JSON value, everything is let through.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Fields, SchemaRef};
use handlebars::template::{BlockParam, HelperTemplate, Parameter, Template, TemplateElement};
use handlebars::{Path, PathSeg};

use super::fields::Issue;
use super::shape::Op;
use super::spec::StreamSpec;
use crate::error::{Code, Error, nearest};
use crate::serve::body::escape;

/// What a template sees at its root.
const MEMBERS: [&str; 5] = ["after", "before", "query_name", "operation", "timestamp"];

/// What a name can be looked up in.
#[derive(Clone, Copy)]
enum Scope<'a> {
    /// The change itself.
    Root,
    /// A row, or a value of the type STRUCT.
    Columns(&'a Fields),
    /// A value without members, or one whose members nobody knows.
    Anything,
}

/// The first name of a template that a view with these columns does not have.
pub(super) fn misfit(template: &Template, columns: &Fields) -> Option<Error> {
    Names { columns, named: Vec::new() }.template(template, &mut vec![Scope::Root]).err()
}

/// What the templates of a stream name that no row of their views has. One for all views is good if one of them has it.
pub(super) fn misfits(spec: &StreamSpec, schema: impl Fn(&str) -> Option<SchemaRef>) -> Vec<Issue> {
    let mut issues = Vec::new();
    // By the kind of change: the first misfit, and whether it fits some view.
    let mut common: BTreeMap<&str, (Option<Issue>, bool)> = BTreeMap::new();
    for view in &spec.views {
        let Some(schema) = schema(view) else { continue };
        let misfits = spec.templates(view).misfits(schema.fields());
        for (name, op) in Op::NAMES {
            let own = spec.routes.get(view).and_then(|route| route.templates.get(op)?.template.as_ref());
            let pointer = match own {
                Some(_) => format!("/routes/{}/{name}/template", escape(view)),
                None => format!("/default_template/{name}/template"),
            };
            let misfit = misfits.iter().find(|(other, _)| *other == op).map(|(_, error)| {
                let told = Error::new(error.code(), format!("{} in the rows of the view '{view}'", error.message()));
                Issue { pointer, error: error.way_out().into_iter().fold(told, Error::hint) }
            });
            match own {
                Some(_) => issues.extend(misfit),
                None => {
                    let (first, is_good) = common.entry(name).or_default();
                    *is_good |= misfit.is_none();
                    *first = first.take().or(misfit);
                }
            }
        }
    }
    issues.extend(common.into_values().filter(|(_, is_good)| !is_good).filter_map(|(issue, _)| issue));
    issues
}

struct Names<'a> {
    columns: &'a Fields,
    /// What blocks have given names to: `{{#each list as |item|}}`.
    named: Vec<String>,
}

impl<'a> Names<'a> {
    fn template(&mut self, template: &Template, scopes: &mut Vec<Scope<'a>>) -> Result<(), Error> {
        for element in &template.elements {
            match element {
                TemplateElement::Expression(call) | TemplateElement::HtmlExpression(call) => self.call(call, scopes)?,
                TemplateElement::HelperBlock(block) => self.block(block, scopes)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A value, or a helper with its arguments.
    fn call(&mut self, call: &HelperTemplate, scopes: &[Scope<'a>]) -> Result<(), Error> {
        if call.params.is_empty() && call.hash.is_empty() {
            // A helper without arguments looks like a value.
            let is_helper =
                matches!(call.name.as_name(), Some("ts" | "json" | "default")) || matches!(call.name, Parameter::Name(_));
            return if is_helper { Ok(()) } else { self.parameter(&call.name, scopes).map(drop) };
        }
        self.arguments(call, scopes)
    }

    fn arguments(&mut self, call: &HelperTemplate, scopes: &[Scope<'a>]) -> Result<(), Error> {
        let values = call
            .params
            .iter()
            .chain(call.hash.values())
            .map(|given| self.parameter(given, scopes))
            .collect::<Result<Vec<_>, _>>()?;
        if call.name.as_name() == Some("lookup")
            && let (Some(Scope::Columns(columns)), Some(Parameter::Literal(name))) = (values.first(), call.params.get(1))
            && let Some(name) = name.as_str()
        {
            member(columns, name)?;
        }
        Ok(())
    }

    fn block(&mut self, block: &HelperTemplate, scopes: &mut Vec<Scope<'a>>) -> Result<(), Error> {
        self.arguments(block, scopes)?;
        let first = block.params.first().map(|given| self.parameter(given, scopes)).transpose()?.unwrap_or(Scope::Anything);
        let names = self.named.len();
        match &block.block_param {
            Some(BlockParam::Single(name)) => self.named.extend(name.as_name().map(str::to_string)),
            Some(BlockParam::Pair((one, other))) => {
                self.named.extend([one, other].into_iter().filter_map(|name| name.as_name().map(str::to_string)));
            }
            _ => {}
        }
        let inner = match block.name.as_name() {
            Some("with") => Some(first),
            Some("if" | "unless") => None,
            _ => Some(Scope::Anything),
        };
        scopes.extend(inner);
        let told = block.template.as_ref().map_or(Ok(()), |template| self.template(template, scopes));
        if inner.is_some() {
            scopes.pop();
        }
        self.named.truncate(names);
        told?;
        block.inverse.as_ref().map_or(Ok(()), |template| self.template(template, scopes))
    }

    /// What a parameter stands for.
    fn parameter(&mut self, parameter: &Parameter, scopes: &[Scope<'a>]) -> Result<Scope<'a>, Error> {
        match parameter {
            Parameter::Path(Path::Relative((segments, _))) => self.path(segments, scopes),
            Parameter::Subexpression(inner) => match inner.as_element() {
                TemplateElement::Expression(call) => self.arguments(call, scopes).map(|()| Scope::Anything),
                _ => Ok(Scope::Anything),
            },
            _ => Ok(Scope::Anything),
        }
    }

    fn path(&self, segments: &[PathSeg], scopes: &[Scope<'a>]) -> Result<Scope<'a>, Error> {
        let mut at = scopes.len() - 1;
        let mut scope = scopes[at];
        for (index, segment) in segments.iter().enumerate() {
            match segment {
                // The rules of the grammar have no names outside of it.
                PathSeg::Ruled(rule) => match format!("{rule:?}").as_str() {
                    "path_root" => scope = Scope::Root,
                    "path_up" => {
                        at = at.saturating_sub(1);
                        scope = scopes[at];
                    }
                    _ => return Ok(Scope::Anything),
                },
                PathSeg::Named(name) if index == 0 && self.named.contains(name) => return Ok(Scope::Anything),
                PathSeg::Named(name) => scope = self.member_of(scope, name)?,
                _ => return Ok(Scope::Anything),
            }
        }
        Ok(scope)
    }

    fn member_of(&self, scope: Scope<'a>, name: &str) -> Result<Scope<'a>, Error> {
        match (scope, name) {
            (Scope::Root, "after" | "before") => Ok(Scope::Columns(self.columns)),
            (Scope::Root, name) if MEMBERS.contains(&name) => Ok(Scope::Anything),
            (Scope::Root, name) => {
                let columns = self.columns.iter().map(|column| column.name().as_str());
                let error = Error::new(Code::UnknownColumn, format!("a template sees no '{name}'"));
                Err(match nearest(name, MEMBERS) {
                    _ if columns.clone().any(|column| column == name) => error.hint(format!("write {{{{after.{name}}}}}")),
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("it sees {}", MEMBERS.join(", "))),
                })
            }
            (Scope::Columns(columns), name) => member(columns, name),
            (Scope::Anything, _) => Ok(Scope::Anything),
        }
    }
}

/// A column, or a field of a STRUCT.
fn member<'a>(columns: &'a Fields, name: &str) -> Result<Scope<'a>, Error> {
    match columns.iter().find(|column| column.name() == name) {
        Some(column) => Ok(match column.data_type() {
            DataType::Struct(fields) => Scope::Columns(fields),
            _ => Scope::Anything,
        }),
        None => {
            let names = columns.iter().map(|column| column.name().as_str());
            let error = Error::new(Code::UnknownColumn, format!("there is no column '{name}'"));
            Err(match nearest(name, names.clone()) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("the columns are {}", names.collect::<Vec<_>>().join(", "))),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn told(template: &str) -> Option<String> {
        let window = Fields::from(vec![Field::new("start", DataType::Utf8, true), Field::new("end", DataType::Utf8, true)]);
        let columns = Fields::from(vec![
            Field::new("wiki", DataType::Utf8, true),
            Field::new("window", DataType::Struct(window), true),
            Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
            Field::new("a b", DataType::Utf8, true),
        ]);
        misfit(&Template::compile(template).unwrap(), &columns).map(|error| error.to_string())
    }

    #[test]
    fn names_that_are_there_are_good_wherever_they_stand() {
        for template in [
            "{{after.wiki}} {{before.wiki}} {{{after.wiki}}} {{after.window.start}} {{after.[a b]}} {{after/wiki}}",
            "{{json after}} {{default after.wiki \"x\"}} {{ts}} {{ts timestamp}} {{operation}} {{query_name}} {{this.after.wiki}}",
            "{{#if after.wiki}}{{after.wiki}}{{else if before.wiki}}{{before.wiki}}{{else}}{{operation}}{{/if}}",
            "{{#with after}}{{wiki}} {{window.end}} {{../operation}} {{@root.before.wiki}} {{json this}}{{/with}}",
            "{{#with after.window}}{{start}}{{../after.wiki}}{{/with}}",
            "{{#with after as |row|}}{{row.wiki}}{{/with}}",
            "{{#each after.tags}}{{this}} {{@index}} {{anything}}{{/each}} {{#each after as |value key|}}{{key}}{{value}}{{/each}}",
            "{{#unless after.wiki}}none{{/unless}} {{lookup after \"wiki\"}} {{#if (gt (len after.wiki) 5)}}x{{/if}}",
            "{{after.wiki.anything}}",
        ] {
            assert_eq!(told(template), None, "{template}");
        }
    }

    #[test]
    fn names_that_are_not_there_are_told_with_the_nearest() {
        for (template, expect) in [
            ("{{after.wikki}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{{before.wikki}}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{json after.wikki}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{default after.wikki 1}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{#if after.wikki}}x{{/if}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{#if after.wiki}}x{{else}}{{after.wikki}}{{/if}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{#if operation}}{{#with after}}{{wikki}}{{/with}}{{/if}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{#with after.window}}{{../after.wikki}}{{/with}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{#each after.tags}}{{@root.after.wikki}}{{/each}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{#if (gt after.wikki 5)}}x{{/if}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{lookup after \"wikki\"}}", "there is no column 'wikki'; did you mean 'wiki'?"),
            ("{{after.window.stat}}", "there is no column 'stat'; did you mean 'start'?"),
            ("{{after.Wiki}}", "there is no column 'Wiki'; did you mean 'wiki'?"),
            ("{{after.zzzzzz}}", "there is no column 'zzzzzz'; the columns are wiki, window, tags, a b"),
            ("{{wiki}}", "a template sees no 'wiki'; write {{after.wiki}}"),
            ("{{op}}", "a template sees no 'op'; it sees after, before, query_name, operation, timestamp"),
            ("{{afer.wiki}}", "a template sees no 'afer'; did you mean 'after'?"),
        ] {
            assert_eq!(told(template).as_deref(), Some(expect), "{template}");
        }
    }
}
