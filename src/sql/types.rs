//! SQL's names of types as Arrow: one table for column declarations and for `CAST` in queries.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};
use datafusion::logical_expr::planner::TypePlanner;
use sqlparser::ast::{self, ArrayElemTypeDef, ExactNumberInfo, TimezoneInfo};

use crate::error::{Code, Error, Result, nearest};
use crate::format::FieldName;
use crate::time::instant;

/// The types a "did you mean" chooses from.
pub(super) const NAMES: [&str; 26] = [
    "TEXT",
    "VARCHAR",
    "CHAR",
    "STRING",
    "UUID",
    "JSON",
    "JSONB",
    "BOOLEAN",
    "BOOL",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "REAL",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "DATETIME",
    "DATE",
    "TIME",
    "BYTEA",
    "BLOB",
];

/// Digits of a DECIMAL that Arrow's 128 bits hold, and what DataFusion takes where none are given.
const DECIMAL: (u8, i8) = (38, 10);

/// The type as a nullable field without a name; JSON is text with Arrow's extension name `arrow.json`.
///
/// `TIMESTAMP` and `TIMESTAMP WITH TIME ZONE` are one type, an instant in UTC ([`crate::time::instant`]): they compare without casts, and
/// a zone in the data is turned into UTC when it is read. `TIMESTAMP WITHOUT TIME ZONE` is a local time. Both count nanoseconds (the
/// years 1677 to 2262), or with `TIMESTAMP(p)` what holds p digits of the second, and more years. `FLOAT` is double precision, as JSON's numbers are; `REAL` is single.
pub fn arrow_type(data_type: &ast::DataType) -> Result<FieldRef> {
    use ast::DataType::*;
    let simple = match data_type {
        JSON | JSONB => return Ok(Arc::new(json())),
        Text
        | TinyText
        | MediumText
        | LongText
        | String(_)
        | Varchar(_)
        | Nvarchar(_)
        | Char(_)
        | Character(_)
        | CharacterVarying(_)
        | CharVarying(_)
        | CharacterLargeObject(_)
        | CharLargeObject(_)
        | Clob(_)
        | Uuid => DataType::Utf8View,
        Boolean | Bool => DataType::Boolean,
        TinyInt(_) => DataType::Int8,
        SmallInt(_) | Int2(_) | Int16 => DataType::Int16,
        Int(_) | Integer(_) | Int4(_) | MediumInt(_) | Int32 => DataType::Int32,
        BigInt(_) | Int8(_) | Int64 => DataType::Int64,
        TinyIntUnsigned(_) | UTinyInt | UInt8 => DataType::UInt8,
        SmallIntUnsigned(_) | Int2Unsigned(_) | USmallInt | UInt16 => DataType::UInt16,
        IntUnsigned(_) | IntegerUnsigned(_) | Int4Unsigned(_) | MediumIntUnsigned(_) | UInt32 => DataType::UInt32,
        BigIntUnsigned(_) | Int8Unsigned(_) | UBigInt | UInt64 => DataType::UInt64,
        Real | Float4 | Float32 => DataType::Float32,
        Float(_) | Float8 | Float64 | Double(_) | DoublePrecision => DataType::Float64,
        Decimal(info) | Numeric(info) | Dec(info) | BigDecimal(info) | BigNumeric(info) => decimal(data_type, info)?,
        Timestamp(digits, TimezoneInfo::WithoutTimeZone) | TimestampNtz(digits) => DataType::Timestamp(unit(*digits)?, None),
        Timestamp(digits, _) | Datetime(digits) => instant(unit(*digits)?),
        Date | Date32 => DataType::Date32,
        Time(..) => DataType::Time64(TimeUnit::Nanosecond),
        Interval { .. } => DataType::Interval(IntervalUnit::MonthDayNano),
        Bytea | Blob(_) | Binary(_) | Varbinary(_) | Bytes(_) => DataType::Binary,
        Array(
            ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::Parenthesis(item),
        ) => {
            let item = arrow_type(item)?;
            DataType::List(Arc::new(item.as_ref().clone().with_name(Field::LIST_FIELD_DEFAULT_NAME)))
        }
        Struct(fields, _) => DataType::Struct(struct_fields(data_type, fields)?),
        Map(..) => return Err(unknown(data_type).hint("declare the column as JSON and read it by `->` and `->>`")),
        Custom(name, _) if name.to_string().eq_ignore_ascii_case("timestamp_s") => instant(TimeUnit::Second),
        _ => return Err(unknown(data_type)),
    };
    Ok(Arc::new(Field::new("", simple, true)))
}

fn json() -> Field {
    let name = HashMap::from([("ARROW:extension:name".to_string(), "arrow.json".to_string())]);
    Field::new("", DataType::Utf8View, true).with_metadata(name)
}

/// The unit that holds so many digits of a second; a TIMESTAMP without them counts nanoseconds.
fn unit(digits: Option<u64>) -> Result<TimeUnit> {
    match digits {
        Some(0) => Ok(TimeUnit::Second),
        Some(1..=3) => Ok(TimeUnit::Millisecond),
        Some(4..=6) => Ok(TimeUnit::Microsecond),
        Some(7..=9) | None => Ok(TimeUnit::Nanosecond),
        Some(digits) => Err(Error::new(Code::Type, format!("TIMESTAMP({digits}) cannot be kept"))
            .hint("give 0 to 9 digits of the second, as in TIMESTAMP(6)")),
    }
}

fn decimal(data_type: &ast::DataType, info: &ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match *info {
        ExactNumberInfo::None => return Ok(DataType::Decimal128(DECIMAL.0, DECIMAL.1)),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale.unsigned_abs() <= precision => {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(Error::new(Code::Type, format!("{data_type} cannot be kept"))
            .hint("give 1 to 38 digits, and no more of them behind the point, as in DECIMAL(18, 6)")),
    }
}

fn struct_fields(data_type: &ast::DataType, fields: &[ast::StructField]) -> Result<Fields> {
    fields
        .iter()
        .map(|field| match &field.field_name {
            Some(name) => Ok(arrow_type(&field.field_type)?.as_ref().clone().with_name(super::statement::fold(name))),
            None => Err(Error::new(Code::Type, format!("a field of {data_type} has no name")).hint("write STRUCT<name TYPE, …>")),
        })
        .collect()
}

/// Adds the fields of a payload that the fields of structs inside a type take, each before those within it.
pub(super) fn keys(data_type: &ast::DataType, into: &mut Vec<FieldName>) {
    match data_type {
        ast::DataType::Struct(fields, _) => {
            for field in fields {
                into.extend(field.field_name.as_ref().map(super::statement::key));
                keys(&field.field_type, into);
            }
        }
        ast::DataType::Array(
            ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::Parenthesis(item),
        ) => keys(item, into),
        _ => {}
    }
}

fn unknown(data_type: &ast::DataType) -> Error {
    let shown = data_type.to_string();
    let error = Error::new(Code::Type, format!("type {shown} is not known"));
    match nearest(&shown, NAMES) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(
            "known are TEXT, BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL, TIMESTAMP, DATE, TIME, JSON, BYTEA, arrays and STRUCT<…>",
        ),
    }
}

/// The same types in queries: `CAST(x AS JSON)`. What is not ours is left to DataFusion.
#[derive(Debug)]
pub struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, data_type: &ast::DataType) -> datafusion::error::Result<Option<FieldRef>> {
        Ok(arrow_type(data_type).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::data_type;

    #[test]
    fn types_become_arrow() {
        for (sql, expected) in [
            ("TEXT", "Utf8View"),
            ("VARCHAR(10)", "Utf8View"),
            ("CHAR", "Utf8View"),
            ("STRING", "Utf8View"),
            ("UUID", "Utf8View"),
            ("JSON", "Utf8View"),
            ("JSONB", "Utf8View"),
            ("BOOLEAN", "Boolean"),
            ("TINYINT", "Int8"),
            ("SMALLINT", "Int16"),
            ("INT", "Int32"),
            ("INTEGER", "Int32"),
            ("BIGINT", "Int64"),
            ("INT8", "Int64"),
            ("BIGINT UNSIGNED", "UInt64"),
            ("INT UNSIGNED", "UInt32"),
            ("FLOAT", "Float64"),
            ("REAL", "Float32"),
            ("DOUBLE", "Float64"),
            ("DOUBLE PRECISION", "Float64"),
            ("DECIMAL", "Decimal128(38, 10)"),
            ("NUMERIC(12)", "Decimal128(12, 0)"),
            ("DECIMAL(12, 4)", "Decimal128(12, 4)"),
            ("TIMESTAMP", "Timestamp(ns, \"UTC\")"),
            ("TIMESTAMPTZ", "Timestamp(ns, \"UTC\")"),
            ("TIMESTAMP(0)", "Timestamp(s, \"UTC\")"),
            ("TIMESTAMP(3) WITH TIME ZONE", "Timestamp(ms, \"UTC\")"),
            ("TIMESTAMPTZ(6)", "Timestamp(µs, \"UTC\")"),
            ("TIMESTAMP(9)", "Timestamp(ns, \"UTC\")"),
            ("TIMESTAMP WITHOUT TIME ZONE", "Timestamp(ns)"),
            ("TIMESTAMP(3) WITHOUT TIME ZONE", "Timestamp(ms)"),
            ("DATETIME", "Timestamp(ns, \"UTC\")"),
            ("DATE", "Date32"),
            ("TIME", "Time64(ns)"),
            ("BYTEA", "Binary"),
            ("BLOB", "Binary"),
            ("INT[]", "List(Int32)"),
            ("ARRAY<TEXT>", "List(Utf8View)"),
            ("STRUCT<a INT, \"B\" STRUCT<c TEXT>>", "Struct(\"a\": Int32, \"B\": Struct(\"c\": Utf8View))"),
        ] {
            let field = arrow_type(&data_type(sql).unwrap()).unwrap();
            assert_eq!(field.data_type().to_string(), expected, "{sql}");
            let json = field.metadata().get("ARROW:extension:name").map(String::as_str);
            assert_eq!(json, sql.starts_with("JSON").then_some("arrow.json"), "{sql}");
            assert!(field.is_nullable());
        }
        for (sql, expected) in [
            ("TEXTT", "type TEXTT is not known; did you mean TEXT?"),
            ("TIMESTMP", "type TIMESTMP is not known; did you mean TIMESTAMP?"),
            (
                "GEOMETRY",
                "type GEOMETRY is not known; \
                 known are TEXT, BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL, TIMESTAMP, DATE, TIME, JSON, BYTEA, arrays and STRUCT<…>",
            ),
            (
                "DECIMAL(50, 2)",
                "DECIMAL(50,2) cannot be kept; give 1 to 38 digits, and no more of them behind the point, as in DECIMAL(18, 6)",
            ),
            ("MAP(TEXT, INT)", "type Map(TEXT, INT) is not known; declare the column as JSON and read it by `->` and `->>`"),
        ] {
            assert_eq!(arrow_type(&data_type(sql).unwrap()).unwrap_err().to_string(), expected);
        }
    }
}
