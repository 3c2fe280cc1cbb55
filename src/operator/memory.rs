//! What arrays hold of memory, also inside lists, maps and structs, and how they come to hold no more than they show.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray, types::ByteViewType,
};
use arrow::datatypes::{DataType, FieldRef};

/// The array with its own bytes in one place: a view of one text must not keep a whole batch in memory, nor a list of buffers grow. One
/// that wastes less than it shows stays as it is.
pub fn detached(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        data_type if !has_views(data_type) => array,
        DataType::Utf8View => detached_view(array.as_string_view()).unwrap_or(array),
        DataType::BinaryView => detached_view(array.as_binary_view()).unwrap_or(array),
        DataType::List(item) => detached_list(item, array.as_list::<i32>()),
        DataType::LargeList(item) => detached_list(item, array.as_list::<i64>()),
        DataType::Map(entries, sorted) => {
            let map = array.as_map();
            let parts = detached_struct(map.entries());
            Arc::new(MapArray::new(entries.clone(), map.offsets().clone(), parts, map.nulls().cloned(), *sorted))
        }
        DataType::Struct(_) => Arc::new(detached_struct(array.as_struct())),
        _ => array,
    }
}

/// Memory of an array. A slice counts as what it shows, which is what it costs among many of the same buffer; texts that are seen through
/// views count as what the views keep.
pub fn memory(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()) + viewed(array)
}

/// Bytes that views keep.
fn viewed(array: &dyn Array) -> usize {
    match array.data_type() {
        data_type if !has_views(data_type) => 0,
        DataType::Utf8View => held(array.as_string_view()),
        DataType::BinaryView => held(array.as_binary_view()),
        DataType::List(_) => viewed(array.as_list::<i32>().values()),
        DataType::LargeList(_) => viewed(array.as_list::<i64>().values()),
        DataType::Map(..) => viewed(array.as_map().entries()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| viewed(column)).sum(),
        _ => 0,
    }
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(inner) | DataType::LargeList(inner) | DataType::Map(inner, _) => has_views(inner.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        _ => false,
    }
}

fn held<T: ByteViewType>(views: &GenericByteViewArray<T>) -> usize {
    views.data_buffers().iter().map(|buffer| buffer.len()).sum()
}

fn detached_view<T: ByteViewType>(views: &GenericByteViewArray<T>) -> Option<ArrayRef> {
    let wastes = views.data_buffers().len() > 1 || held(views) > 2 * views.total_buffer_bytes_used();
    wastes.then(|| Arc::new(views.gc()) as ArrayRef)
}

fn detached_list<O: OffsetSizeTrait>(item: &FieldRef, list: &GenericListArray<O>) -> ArrayRef {
    let values = detached(Arc::clone(list.values()));
    Arc::new(GenericListArray::new(item.clone(), list.offsets().clone(), values, list.nulls().cloned()))
}

fn detached_struct(record: &StructArray) -> StructArray {
    let columns = record.columns().iter().cloned().map(detached).collect();
    StructArray::new(record.fields().clone(), columns, record.nulls().cloned())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, MapBuilder, StringViewArray, StringViewBuilder, UInt32Array};
    use arrow::compute::{concat, take};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn texts_count_and_are_let_go_wherever_they_stand() {
        let text = || "x".repeat(1000);
        let plain: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..100).map(|_| text())));
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        let mut maps = MapBuilder::new(None, StringViewBuilder::new(), StringViewBuilder::new());
        for _ in 0..100 {
            lists.append_value([Some(text())]);
            maps.keys().append_value("key");
            maps.values().append_value(text());
            maps.append(true).unwrap();
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        let field = Arc::new(Field::new("lists", lists.data_type().clone(), true));
        let records = StructArray::from(vec![(field, Arc::clone(&lists))]);
        for array in [plain, lists, Arc::new(records), Arc::new(maps.finish())] {
            assert!(memory(&array) > 100_000, "{}: {}", array.data_type(), memory(&array));
            let few = take(&array, &UInt32Array::from(vec![17, 4]), None).unwrap();
            let alone = detached(Arc::clone(&few));
            assert_eq!(&alone, &few);
            assert!(memory(&alone) < 3_000, "{}: {}", array.data_type(), memory(&alone));
        }
    }

    #[test]
    fn texts_in_many_places_are_brought_together_and_those_in_one_stay() {
        let part: ArrayRef = Arc::new(StringViewArray::from_iter_values(["a text that is longer than a view"]));
        let together = detached(concat(&[&part, &part, &part]).unwrap());
        assert_eq!(together.as_string_view().data_buffers().len(), 1);
        let again = detached(Arc::clone(&together));
        assert!(Arc::ptr_eq(&again, &together));
    }
}
