//! `meta['requestId']`: a field of a STRUCT by its exact name, or else by the one that differs in case only, as columns are found in events.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::{ExprSchemable, GetFieldAccess};

/// Says the field by its own name, and leaves the access to the planners after it.
#[derive(Debug)]
pub struct FieldByName;

impl ExprPlanner for FieldByName {
    fn plan_field_access(
        &self,
        mut access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> DataFusionResult<PlannerResult<RawFieldAccessExpr>> {
        if let GetFieldAccess::NamedStructField { name } = &access.field_access
            && let Some(Some(wanted)) = name.try_as_str()
            && let Ok(DataType::Struct(fields)) = access.expr.get_type(schema)
            && fields.find(wanted).is_none()
        {
            let mut alike = fields.iter().filter(|field| field.name().eq_ignore_ascii_case(wanted));
            if let (Some(field), None) = (alike.next(), alike.next()) {
                access.field_access = GetFieldAccess::NamedStructField { name: ScalarValue::from(field.name().as_str()) };
            }
        }
        Ok(PlannerResult::Original(access))
    }
}
