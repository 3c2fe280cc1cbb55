//! The cells of whole rows become Arrow arrays, one builder a column.

use std::slice::Iter;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryBuilder, BinaryViewBuilder, BooleanBuilder, GenericStringBuilder, ListArray, MapArray,
    NullBufferBuilder, OffsetSizeTrait, PrimitiveBuilder, StringViewBuilder, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::*;

use super::object::ByteRange;
use super::value::{Cell, Scratch};
use crate::error::{Error, Result};

/// The cells of a row from left to right, and the texts they point into.
pub struct Cells<'a> {
    pub cells: Iter<'a, Cell>,
    pub data: &'a str,
    pub kind: &'a str,
    pub id: &'a str,
    pub endpoint: &'a str,
    pub scratch: &'a Scratch,
}

impl<'a> Cells<'a> {
    fn next(&mut self) -> Cell {
        *self.cells.next().expect("a row has a cell for each column and part")
    }

    fn bool(&self, cell: Cell) -> Option<bool> {
        match cell {
            Cell::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn text(&self, cell: Cell) -> Option<&'a str> {
        Some(match cell {
            Cell::Text(part) => part.of(self.data),
            Cell::Unescaped(part) => part.of(&self.scratch.text),
            Cell::Kind => self.kind,
            Cell::Id => self.id,
            Cell::Endpoint => self.endpoint,
            _ => return None,
        })
    }

    fn bytes(&self, cell: Cell) -> Option<&'a [u8]> {
        match cell {
            Cell::Bytes(ByteRange { start, end }) => Some(&self.scratch.bytes[start..end]),
            _ => None,
        }
    }
}

/// A column in the making. The cells it is handed are those that a [`super::value::ValueReader`] of the same type makes.
pub trait Builder: Send {
    /// Takes the cells of one value.
    fn append(&mut self, cells: &mut Cells<'_>);
    /// Takes a NULL, also where the column has none because the value around it is NULL.
    fn append_null(&mut self);
    /// The column so far; the builder begins anew.
    fn finish(&mut self) -> Result<ArrayRef>;
}

/// The builder for columns of this type; an error where [`super::value::ValueReader::of`] refuses it too.
pub fn builder(data_type: &DataType) -> Result<Box<dyn Builder>> {
    macro_rules! integers {
        ($type:ty) => {
            primitive::<$type>(data_type, |cell| match cell {
                Cell::Int(value) => Some(value as _),
                Cell::UInt(value) => Some(value as _),
                _ => None,
            })
        };
    }
    macro_rules! floats {
        ($type:ty) => {
            primitive::<$type>(data_type, |cell| match cell {
                Cell::Float(value) => Some(value as _),
                _ => None,
            })
        };
    }
    Ok(match data_type {
        DataType::Boolean => Box::new(BooleanBuilder::new()),
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Float32 => floats!(Float32Type),
        DataType::Float64 => floats!(Float64Type),
        DataType::Decimal128(..) => primitive::<Decimal128Type>(data_type, |cell| match cell {
            Cell::Decimal(value) => Some(value),
            _ => None,
        }),
        DataType::Timestamp(TimeUnit::Second, _) => integers!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => integers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => integers!(TimestampNanosecondType),
        DataType::Date32 => integers!(Date32Type),
        DataType::Time32(TimeUnit::Second) => integers!(Time32SecondType),
        DataType::Time32(TimeUnit::Millisecond) => integers!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => integers!(Time64MicrosecondType),
        DataType::Time64(TimeUnit::Nanosecond) => integers!(Time64NanosecondType),
        DataType::Utf8View => Box::new(StringViewBuilder::new()),
        DataType::Utf8 => Box::new(GenericStringBuilder::<i32>::new()),
        DataType::LargeUtf8 => Box::new(GenericStringBuilder::<i64>::new()),
        DataType::Binary => Box::new(BinaryBuilder::new()),
        DataType::BinaryView => Box::new(BinaryViewBuilder::new()),
        DataType::List(item) => Box::new(List {
            item: item.clone(),
            offsets: Offsets::new(),
            validity: NullBufferBuilder::new(0),
            values: builder(item.data_type())?,
        }),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(parts) if parts.len() == 2 => Box::new(Map {
                entries: entries.clone(),
                parts: parts.clone(),
                sorted: *sorted,
                offsets: Offsets::new(),
                validity: NullBufferBuilder::new(0),
                keys: builder(parts[0].data_type())?,
                values: builder(parts[1].data_type())?,
            }),
            _ => return Err(Error::bug("a map without key and value")),
        },
        DataType::Struct(fields) => Box::new(Struct {
            fields: fields.clone(),
            columns: fields.iter().map(|field| builder(field.data_type())).collect::<Result<_>>()?,
            validity: NullBufferBuilder::new(0),
        }),
        other => return Err(Error::bug(format!("no column of type {other} can be built"))),
    })
}

/// A builder of numbers and what takes them out of their cells.
struct Primitive<T: ArrowPrimitiveType, F> {
    builder: PrimitiveBuilder<T>,
    native: F,
}

fn primitive<T: ArrowPrimitiveType>(
    data_type: &DataType,
    native: impl Fn(Cell) -> Option<T::Native> + Send + 'static,
) -> Box<dyn Builder> {
    Box::new(Primitive { builder: PrimitiveBuilder::<T>::new().with_data_type(data_type.clone()), native })
}

impl<T: ArrowPrimitiveType, F: Fn(Cell) -> Option<T::Native> + Send> Builder for Primitive<T, F> {
    fn append(&mut self, cells: &mut Cells<'_>) {
        self.builder.append_option((self.native)(cells.next()));
    }

    fn append_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.builder.finish()))
    }
}

/// Builders of Arrow that take an `Option` of what a cell is.
macro_rules! plain {
    ($([$($generic:tt)*] $builder:ty, $get:ident;)*) => { $(
        impl $($generic)* Builder for $builder {
            fn append(&mut self, cells: &mut Cells<'_>) {
                let cell = cells.next();
                self.append_option(cells.$get(cell));
            }

            fn append_null(&mut self) {
                <$builder>::append_null(self);
            }

            fn finish(&mut self) -> Result<ArrayRef> {
                Ok(Arc::new(<$builder>::finish(self)))
            }
        }
    )* };
}

plain! {
    [] BooleanBuilder, bool;
    [] StringViewBuilder, text;
    [<O: OffsetSizeTrait>] GenericStringBuilder<O>, text;
    [] BinaryBuilder, bytes;
    [] BinaryViewBuilder, bytes;
}

/// Where each list begins and ends among the values of all.
struct Offsets {
    offsets: Vec<i32>,
    values: usize,
}

impl Offsets {
    fn new() -> Self {
        Offsets { offsets: vec![0], values: 0 }
    }

    fn push(&mut self, length: usize) {
        self.values += length;
        self.offsets.push(self.values as i32);
    }

    fn finish(&mut self) -> Result<OffsetBuffer<i32>> {
        let done = std::mem::replace(self, Offsets::new());
        match i32::try_from(done.values) {
            Ok(_) => Ok(OffsetBuffer::new(done.offsets.into())),
            Err(_) => Err(Error::bug("a batch has more than 2,147,483,647 list elements in one column")),
        }
    }
}

struct List {
    item: FieldRef,
    offsets: Offsets,
    validity: NullBufferBuilder,
    values: Box<dyn Builder>,
}

impl Builder for List {
    fn append(&mut self, cells: &mut Cells<'_>) {
        let Cell::List(length) = cells.next() else { return self.append_null() };
        (0..length).for_each(|_| self.values.append(cells));
        self.offsets.push(length);
        self.validity.append_non_null();
    }

    fn append_null(&mut self) {
        self.offsets.push(0);
        self.validity.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let (values, validity) = (self.values.finish()?, self.validity.finish());
        Ok(Arc::new(ListArray::try_new(self.item.clone(), self.offsets.finish()?, values, validity)?))
    }
}

struct Map {
    entries: FieldRef,
    parts: Fields,
    sorted: bool,
    offsets: Offsets,
    validity: NullBufferBuilder,
    keys: Box<dyn Builder>,
    values: Box<dyn Builder>,
}

impl Builder for Map {
    fn append(&mut self, cells: &mut Cells<'_>) {
        let Cell::List(length) = cells.next() else { return self.append_null() };
        for _ in 0..length {
            self.keys.append(cells);
            self.values.append(cells);
        }
        self.offsets.push(length);
        self.validity.append_non_null();
    }

    fn append_null(&mut self) {
        self.offsets.push(0);
        self.validity.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let columns = vec![self.keys.finish()?, self.values.finish()?];
        let entries = StructArray::try_new(self.parts.clone(), columns, None)?;
        let validity = self.validity.finish();
        Ok(Arc::new(MapArray::try_new(self.entries.clone(), self.offsets.finish()?, entries, validity, self.sorted)?))
    }
}

struct Struct {
    fields: Fields,
    columns: Vec<Box<dyn Builder>>,
    validity: NullBufferBuilder,
}

impl Builder for Struct {
    fn append(&mut self, cells: &mut Cells<'_>) {
        match cells.next() {
            Cell::Struct => {
                self.columns.iter_mut().for_each(|column| column.append(cells));
                self.validity.append_non_null();
            }
            _ => self.append_null(),
        }
    }

    fn append_null(&mut self) {
        self.columns.iter_mut().for_each(|column| column.append_null());
        self.validity.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let columns = self.columns.iter_mut().map(|column| column.finish()).collect::<Result<Vec<_>>>()?;
        let (length, validity) = (self.validity.len(), self.validity.finish());
        Ok(Arc::new(StructArray::try_new_with_length(self.fields.clone(), columns, validity, length)?))
    }
}
