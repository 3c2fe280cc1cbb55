//! Names given in `SELECT`, replaced by what they stand for.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{AccessExpr, Expr, Ident, Query, Spanned, Subscript, Value, Visit, VisitMut, Visitor, VisitorMut};

use super::scope::Visible;
use super::windows;
use crate::error::{Code, Error, Result};
use crate::sql::statement::fold;

/// The aliases of one `SELECT`, in the order they were added; the expressions hold no alias any more.
pub struct Aliases<'a> {
    visible: Visible,
    known: HashMap<String, Alias>,
    /// Parts of expressions that may still be put in.
    budget: &'a mut usize,
}

struct Alias {
    expr: Expr,
    parts: usize,
    depth: usize,
}

/// Deepest expression that an alias may stand for where it is used: trees are cloned and dropped on the stack.
const DEPTH_MAX: usize = 128;

impl<'a> Aliases<'a> {
    pub fn new(visible: Visible, budget: &'a mut usize) -> Self {
        Aliases { visible, known: HashMap::new(), budget }
    }

    /// The first of two aliases of one name holds.
    pub fn add(&mut self, alias: &Ident, expr: &Expr) {
        let (parts, depth) = size(expr);
        self.known.entry(fold(alias)).or_insert_with(|| Alias { expr: expr.clone(), parts, depth });
    }

    /// Whether `FROM` has a column or a table of this name.
    pub fn sees(&self, name: &str) -> bool {
        self.visible.columns.contains(name) || self.visible.tables.contains(name)
    }

    /// The window call that an alias stands for, also where a column of `FROM` has its name.
    pub fn window(&self, ident: &Ident) -> Option<&Expr> {
        self.known.get(&fold(ident)).map(|alias| &alias.expr).filter(|expr| windows::is_call(expr))
    }

    /// What an alias stands for in a `GROUP BY`.
    pub fn get(&self, ident: &Ident) -> Option<&Expr> {
        match self.visible.columns.contains(&fold(ident)) {
            true => self.window(ident),
            false => self.known.get(&fold(ident)).map(|alias| &alias.expr),
        }
    }

    /// Whether `ident.field` reads a field of a window, and no column of a table of that name.
    pub fn is_window_field(&self, ident: &Ident) -> bool {
        !self.visible.tables.contains(&fold(ident)) && self.window(ident).is_some()
    }

    /// Replaces all aliases in a part of the query, but not in its subqueries. True where anything was.
    pub fn replace(&mut self, part: &mut impl VisitMut) -> Result<bool> {
        let mut replace = Replace { aliases: self, queries: 0, replaced: false };
        match part.visit(&mut replace) {
            ControlFlow::Continue(()) => Ok(replace.replaced),
            ControlFlow::Break(error) => Err(error),
        }
    }
}

struct Replace<'a, 'b> {
    aliases: &'a mut Aliases<'b>,
    /// Subqueries around the place: their names are their own.
    queries: usize,
    replaced: bool,
}

impl VisitorMut for Replace<'_, '_> {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        // The name behind the dot in `(…).start` is no column.
        if let Expr::CompoundFieldAccess { access_chain, .. } = expr {
            for access in access_chain {
                if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                    *access = field_of(field);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if self.queries > 0 {
            return ControlFlow::Continue(());
        }
        match self.meant(expr) {
            Ok(None) => {}
            Ok(Some(meant)) => {
                *expr = meant;
                self.replaced = true;
            }
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

impl Replace<'_, '_> {
    /// What a name stands for, if it is an alias.
    fn meant(&mut self, expr: &Expr) -> Result<Option<Expr>> {
        let (first, fields) = match expr {
            Expr::Identifier(ident) => (ident, &[][..]),
            Expr::CompoundIdentifier(parts) => match parts.split_first() {
                Some((first, fields)) => (first, fields),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let name = fold(first);
        let Aliases { visible, known, budget } = &mut *self.aliases;
        let Some(alias) = known.get(&name) else { return Ok(None) };
        let window = windows::is_call(&alias.expr);
        let hidden = match fields {
            [] => visible.columns.contains(&name),
            _ => visible.tables.contains(&name) || !window && visible.columns.contains(&name),
        };
        if hidden {
            return Ok(None);
        }
        **budget = budget.checked_sub(alias.parts).filter(|_| alias.depth <= DEPTH_MAX).ok_or_else(|| {
            Error::new(Code::Query, "aliases that stand for aliases make this query too large")
                .at(expr.span())
                .hint("compute the first ones in a view or a subquery")
        })?;
        let Some(field) = fields.first() else { return Ok(Some(closed(alias.expr.clone()))) };
        if window && !windows::FIELDS.contains(&fold(field).as_str()) {
            return Err(Error::new(Code::UnknownColumn, format!("a window has no field '{}'", field.value))
                .at(field.span)
                .hint(format!("write {name}.start or {name}.end")));
        }
        Ok(Some(Expr::CompoundFieldAccess {
            root: Box::new(Expr::Nested(Box::new(alias.expr.clone()))),
            access_chain: fields.iter().map(field_of).collect(),
        }))
    }
}

/// `['field']`
fn field_of(field: &Ident) -> AccessExpr {
    let index = Expr::Value(Value::SingleQuotedString(fold(field)).with_span(field.span));
    AccessExpr::Subscript(Subscript::Index { index })
}

/// An expression that stays whole wherever it is put.
fn closed(expr: Expr) -> Expr {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::Function(_) | Expr::Nested(_) => expr,
        expr => Expr::Nested(Box::new(expr)),
    }
}

/// How many expressions an expression is made of, and how deep they are nested.
fn size(expr: &Expr) -> (usize, usize) {
    #[derive(Default)]
    struct Count {
        parts: usize,
        depth: usize,
        deepest: usize,
    }
    impl Visitor for Count {
        type Break = ();
        fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
            self.parts += 1;
            self.depth += 1;
            self.deepest = self.deepest.max(self.depth);
            ControlFlow::Continue(())
        }
        fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }
    }
    let mut count = Count::default();
    let _ = expr.visit(&mut count);
    (count.parts, count.deepest)
}
