//! Zones: what a clock on a wall shows at an instant, which instant it shows, and the SQL functions that ask for it.
//!
//! An instant is a `Timestamp(unit, "UTC")`, a local time a `Timestamp(unit)` without a zone ([`crate::time`]). `AT TIME ZONE` leads
//! from one to the other, as PostgreSQL says: an instant becomes the local time in that zone, a local time the instant. Without a zone
//! an instant is looked at in UTC.

mod at;
mod bin;
mod clock;
mod literal;
mod part;
mod text;
mod trunc;
mod values;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::logical_expr::ScalarUDF;

pub use self::at::{AtTimeZone, NAME, has_zone};
pub use self::clock::Zone;
pub use self::literal::Literals;

/// The functions of time that DataFusion does not have, or has without zones: they go by DataFusion's names in their place.
pub fn functions() -> Vec<ScalarUDF> {
    vec![
        ScalarUDF::from(at::TimeZone::default()),
        ScalarUDF::from(trunc::DateTrunc::default()),
        ScalarUDF::from(bin::DateBin::default()),
        ScalarUDF::from(part::DatePart::default()),
        ScalarUDF::from(part::FromUnixtime::default()),
        ScalarUDF::from(text::ToChar::default()),
    ]
}

/// The same schema, whose instants are to be shown by the clocks of a zone. The rows of the one are rows of the other: the zone of an
/// instant's type says nothing about its number.
pub fn shown_in(schema: &Schema, zone: Zone) -> Schema {
    Schema::new_with_metadata(
        schema.fields().iter().map(|field| field_in(field, zone)).collect::<Vec<_>>(),
        schema.metadata().clone(),
    )
}

fn field_in(field: &FieldRef, zone: Zone) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(zone.to_string().into())),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| field_in(field, zone)).collect()),
        DataType::List(item) => DataType::List(field_in(item, zone)),
        DataType::LargeList(item) => DataType::LargeList(field_in(item, zone)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(field_in(item, zone), *size),
        DataType::Map(entries, sorted) => DataType::Map(field_in(entries, zone), *sorted),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}
