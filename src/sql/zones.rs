//! `AT TIME ZONE` as a call of the function it stands for: DataFusion's planner makes a cast of it that keeps the instant.

use std::ops::ControlFlow;

use sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
    TimezoneInfo, TypedString, Value, VisitMut, VisitorMut,
};

use crate::zone;

/// Says every `time AT TIME ZONE zone` as `timezone(zone, time)`.
pub fn zones(part: &mut impl VisitMut) {
    let _ = part.visit(&mut Zones);
}

struct Zones;

impl VisitorMut for Zones {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::AtTimeZone { timestamp, time_zone } = expr {
            as_local(timestamp);
            let argument = |expr: &Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr.clone()));
            *expr = Expr::Function(Function {
                name: ObjectName::from(vec![Ident::new(zone::NAME)]),
                uses_odbc_syntax: false,
                parameters: FunctionArguments::None,
                args: FunctionArguments::List(FunctionArgumentList {
                    duplicate_treatment: None,
                    args: vec![argument(time_zone), argument(timestamp)],
                    clauses: Vec::new(),
                }),
                filter: None,
                null_treatment: None,
                over: None,
                within_group: Vec::new(),
            });
        }
        ControlFlow::Continue(())
    }
}

/// A `TIMESTAMP '…'` whose text names no zone is, as the operand of `AT TIME ZONE`, the local time there.
fn as_local(expr: &mut Expr) {
    let (text, data_type) = match expr {
        Expr::Nested(inner) => return as_local(inner),
        Expr::TypedString(TypedString { data_type, value, .. }) => (&value.value, data_type),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => match &**expr {
            Expr::Value(value) => (&value.value, data_type),
            _ => return,
        },
        _ => return,
    };
    if let (Value::SingleQuotedString(text), DataType::Timestamp(_, zone @ TimezoneInfo::None)) = (text, data_type)
        && !zone::has_zone(text)
    {
        *zone = TimezoneInfo::WithoutTimeZone;
    }
}
