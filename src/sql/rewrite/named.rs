//! `WINDOW w AS (…)`: each `OVER w` and `OVER (w …)` gets what `w` says.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Ident, NamedWindowExpr, Query, Select, VisitMut, VisitorMut, WindowSpec, WindowType};

use crate::error::{Code, Error, Result, nearest};
use crate::sql::statement::fold;

/// The windows that a `WINDOW` clause names, none of them standing on another.
#[derive(Default)]
pub struct Named {
    windows: HashMap<String, WindowSpec>,
}

impl Named {
    /// Takes the clause away from a `SELECT`: nothing needs it any more once [`Named::expand`] has seen every part.
    pub fn take(select: &mut Select) -> Result<Named> {
        let mut named = Named::default();
        for definition in std::mem::take(&mut select.named_window) {
            let spec = match definition.1 {
                NamedWindowExpr::NamedWindow(name) => named.get(&name)?.clone(),
                NamedWindowExpr::WindowSpec(spec) => named.merged(spec)?,
            };
            if named.windows.insert(fold(&definition.0), spec).is_some() {
                return Err(Error::new(Code::Exists, format!("the window '{}' is defined twice", definition.0.value))
                    .at(definition.0.span)
                    .hint("keep one of the two"));
            }
        }
        Ok(named)
    }

    /// Puts the windows into every `OVER` of a part of the query, but not of its subqueries.
    pub fn expand(&self, part: &mut impl VisitMut) -> Result<()> {
        match part.visit(&mut Expand { named: self, queries: 0 }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn get(&self, name: &Ident) -> Result<&WindowSpec> {
        self.windows.get(&fold(name)).ok_or_else(|| {
            let error = Error::new(Code::Query, format!("there is no window '{}'", name.value)).at(name.span);
            match nearest(&name.value, self.windows.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("define it at the end of the SELECT: WINDOW {name} AS (PARTITION BY …)")),
            }
        })
    }

    /// `(w ORDER BY …)`: what `w` says, and what the specification adds to it.
    fn merged(&self, spec: WindowSpec) -> Result<WindowSpec> {
        let Some(name) = &spec.window_name else { return Ok(spec) };
        let base = self.get(name)?;
        let refuse = |what: &str| {
            Err(Error::new(Code::Query, format!("the window '{}' has its own {what}", name.value))
                .at(name.span)
                .hint(format!("write OVER {name}, or spell the window out")))
        };
        match () {
            () if base.window_frame.is_some() => refuse("frame and cannot be added to"),
            () if !spec.partition_by.is_empty() => refuse("PARTITION BY, which cannot be given anew"),
            () if !spec.order_by.is_empty() && !base.order_by.is_empty() => refuse("ORDER BY"),
            () => Ok(WindowSpec {
                window_name: None,
                partition_by: base.partition_by.clone(),
                order_by: if spec.order_by.is_empty() { base.order_by.clone() } else { spec.order_by },
                window_frame: spec.window_frame,
            }),
        }
    }
}

struct Expand<'a> {
    named: &'a Named,
    /// Subqueries around the place: their windows are their own.
    queries: usize,
}

impl VisitorMut for Expand<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        if self.queries > 0 {
            return ControlFlow::Continue(());
        }
        let spec = match &function.over {
            Some(WindowType::NamedWindow(name)) => self.named.get(name).cloned(),
            Some(WindowType::WindowSpec(spec)) if spec.window_name.is_some() => self.named.merged(spec.clone()),
            _ => return ControlFlow::Continue(()),
        };
        match spec {
            Ok(spec) => function.over = Some(WindowType::WindowSpec(spec)),
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}
