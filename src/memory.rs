//! What rows hold of memory, also inside lists, maps and structs, and how they come to hold no more than they show.
//!
//! Arrays share their buffers: a row cut out of a batch keeps the whole batch in memory, and a view of one text the texts of all its
//! neighbours. So there are two sizes. [`held`] is what would be free if nobody else had the arrays, and the only one that bounds may
//! count. [`shown`] is what the rows would take by themselves. What is kept for long goes through [`detached`] first, which copies
//! rows that hold much more than they show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, FixedSizeListArray, GenericByteArray, GenericByteViewArray, GenericListArray, MapArray,
    OffsetSizeTrait, RecordBatch, RecordBatchOptions, StructArray, UInt32Array, types::ByteArrayType, types::ByteViewType,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// What an array may waste beside as much again as it shows: less is not worth a copy.
const SLACK_BYTES: usize = 256;

/// More buffers of texts than this are brought together: each would be looked at whenever the array is, and joined arrays add theirs up.
const FEW_BUFFERS: usize = 8;

/// A single result of a function below this is not counted: there are not enough of them in one statement to matter.
const SMALL_BYTES: u64 = 64 * 1024;

/// What functions may still make in large results. Without anybody who looks after the process, as much as they like.
static LEFT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Says what large results of functions may take from now on, all together, until the next call.
///
/// Each of them is bounded, but a statement may ask for thousands, and the constants among them are made while it is planned, where no
/// pool counts them.
pub fn leave(bytes: u64) {
    LEFT.store(bytes, Relaxed);
}

/// Whether a function may make a result of so many bytes now; what is made is taken from what is left.
pub fn may_make(bytes: u64) -> bool {
    bytes < SMALL_BYTES
        || LEFT.fetch_update(Relaxed, Relaxed, |left| if left == u64::MAX { Some(left) } else { left.checked_sub(bytes) }).is_ok()
}

/// Memory that these arrays keep from being free: each of their buffers as a whole, and one that several of them share once.
pub fn held<'a>(arrays: impl IntoIterator<Item = &'a ArrayRef>) -> usize {
    let mut buffers = Vec::new();
    arrays.into_iter().for_each(|array| collect(&array.to_data(), &mut buffers));
    buffers.sort_unstable();
    buffers.dedup_by_key(|(start, _)| *start);
    buffers.into_iter().map(|(_, bytes)| bytes).sum()
}

/// As [`held`], of the rows of a batch.
pub fn held_by(rows: &RecordBatch) -> usize {
    held(rows.columns())
}

/// Where each buffer of an array starts, and its size.
fn collect(data: &ArrayData, buffers: &mut Vec<(usize, usize)>) {
    let mut note = |buffer: &Buffer| {
        if buffer.capacity() > 0 {
            buffers.push((buffer.data_ptr().as_ptr() as usize, buffer.capacity()));
        }
    };
    data.buffers().iter().for_each(&mut note);
    data.nulls().into_iter().for_each(|nulls| note(nulls.buffer()));
    data.child_data().iter().for_each(|child| collect(child, buffers));
}

/// Memory that the values of an array would take by themselves.
pub fn shown(array: &dyn Array) -> usize {
    let values = match array.data_type() {
        DataType::Utf8View => size_of::<u128>() * array.len() + array.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => size_of::<u128>() * array.len() + array.as_binary_view().total_buffer_bytes_used(),
        DataType::Utf8 => of_texts(array.as_string::<i32>()),
        DataType::LargeUtf8 => of_texts(array.as_string::<i64>()),
        DataType::Binary => of_texts(array.as_binary::<i32>()),
        DataType::LargeBinary => of_texts(array.as_binary::<i64>()),
        DataType::List(_) => of_lists(array.as_list::<i32>().offsets(), array.as_list::<i32>().values()),
        DataType::LargeList(_) => of_lists(array.as_list::<i64>().offsets(), array.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => shown(array.as_fixed_size_list().values()),
        DataType::Map(..) => {
            let map = array.as_map();
            let (start, end) = ends(map.offsets());
            map.offsets().len() * size_of::<i32>() + shown(&map.entries().slice(start, end - start))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| shown(column)).sum(),
        DataType::Dictionary(key, _) => {
            // Each row looks up one word, and they are taken to be of one size.
            let words = array.as_any_dictionary().values();
            let looked_up = shown(words) * array.len().min(words.len()) / words.len().max(1);
            key.primitive_width().unwrap_or(0) * array.len() + looked_up
        }
        _ => return array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    };
    values + array.nulls().map_or(0, |nulls| nulls.len().div_ceil(8))
}

/// As [`shown`], of the rows of a batch.
pub fn shown_by(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| shown(column)).sum()
}

fn of_texts<T: ByteArrayType>(texts: &GenericByteArray<T>) -> usize {
    let (start, end) = ends(texts.offsets());
    (texts.len() + 1) * size_of::<T::Offset>() + end - start
}

fn of_lists<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: &ArrayRef) -> usize {
    let (start, end) = ends(offsets);
    offsets.len() * size_of::<O>() + shown(&values.slice(start, end - start))
}

fn ends<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (usize, usize) {
    let of = |end: Option<&O>| end.map_or(0, |end| end.as_usize());
    (of(offsets.first()), of(offsets.last()))
}

/// The array with no more than its own values, for those who keep it: a view of one text must not keep a whole batch in memory, nor a
/// list of buffers grow. One that holds hardly more than it shows stays as it is.
pub fn detached(array: ArrayRef) -> ArrayRef {
    let wastes = held([&array]) > 2 * shown(&array) + SLACK_BYTES || buffers(&array) > FEW_BUFFERS;
    match wastes {
        // What cannot be copied counts as what it holds.
        true => copied(&array).unwrap_or(array),
        false => array,
    }
}

/// The rows with no more than their own values, see [`detached`].
pub fn detached_rows(rows: &RecordBatch) -> RecordBatch {
    let columns = rows.columns().iter().cloned().map(detached).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(rows.schema(), columns, &options).unwrap_or_else(|_| rows.clone())
}

fn copied(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let nulls = || array.nulls().map(|nulls| nulls.iter().collect::<NullBuffer>());
    Ok(match array.data_type() {
        DataType::Utf8View => alone(array.as_string_view())?,
        DataType::BinaryView => alone(array.as_binary_view())?,
        DataType::List(item) => {
            let (offsets, values) = parts(array.as_list::<i32>().offsets(), array.as_list::<i32>().values());
            Arc::new(GenericListArray::try_new(item.clone(), offsets, values, nulls())?)
        }
        DataType::LargeList(item) => {
            let (offsets, values) = parts(array.as_list::<i64>().offsets(), array.as_list::<i64>().values());
            Arc::new(GenericListArray::try_new(item.clone(), offsets, values, nulls())?)
        }
        DataType::Map(entries, sorted) => {
            let map = array.as_map();
            let all: ArrayRef = Arc::new(map.entries().clone());
            let (offsets, pairs) = parts(map.offsets(), &all);
            Arc::new(MapArray::try_new(entries.clone(), offsets, pairs.as_struct().clone(), nulls(), *sorted)?)
        }
        DataType::FixedSizeList(item, size) => {
            let values = detached(Arc::clone(array.as_fixed_size_list().values()));
            Arc::new(FixedSizeListArray::try_new(item.clone(), *size, values, nulls())?)
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let columns = array.as_struct().columns().iter().cloned().map(detached).collect();
            Arc::new(StructArray::try_new(fields.clone(), columns, nulls())?)
        }
        DataType::Dictionary(_, values) => {
            // Only the words that are looked up; room for more is let go.
            let own = cast(&cast(array, values)?, array.data_type())?;
            own.as_any_dictionary().with_values(all_of(own.as_any_dictionary().values())?)
        }
        _ => all_of(array)?,
    })
}

fn all_of(array: &dyn Array) -> Result<ArrayRef, ArrowError> {
    take(array, &UInt32Array::from_iter_values(0..array.len() as u32), None)
}

fn alone<T: ByteViewType>(views: &GenericByteViewArray<T>) -> Result<ArrayRef, ArrowError> {
    let own = views.gc();
    // Where all texts are short they are in the views themselves, which may be a slice.
    match own.data_buffers().is_empty() {
        true => all_of(&own),
        false => Ok(Arc::new(own)),
    }
}

/// The values that lists show, and where each list begins among them.
fn parts<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: &ArrayRef) -> (OffsetBuffer<O>, ArrayRef) {
    let (start, end) = ends(offsets);
    let lengths = offsets.windows(2).map(|two| two[1].as_usize() - two[0].as_usize());
    (OffsetBuffer::from_lengths(lengths), detached(values.slice(start, end - start)))
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(inner) | DataType::LargeList(inner) | DataType::Map(inner, _) => has_views(inner.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        _ => false,
    }
}

/// The most buffers that an array of texts in it has.
fn buffers(array: &dyn Array) -> usize {
    match array.data_type() {
        data_type if !has_views(data_type) => 0,
        DataType::Utf8View => array.as_string_view().data_buffers().len(),
        DataType::BinaryView => array.as_binary_view().data_buffers().len(),
        DataType::List(_) => buffers(array.as_list::<i32>().values()),
        DataType::LargeList(_) => buffers(array.as_list::<i64>().values()),
        DataType::Map(..) => buffers(array.as_map().entries()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| buffers(column)).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Int64Array, Int64Builder, ListBuilder, MapBuilder, StringArray, StringDictionaryBuilder, StringViewArray,
        StringViewBuilder,
    };
    use arrow::compute::concat;
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    /// A thousand wide values of every shape that rows have.
    fn wide() -> Vec<ArrayRef> {
        let text = |number: usize| format!("{number:01000}");
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..1000).map(text)));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(text)));
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        let mut numbers = ListBuilder::new(Int64Builder::new());
        let mut maps = MapBuilder::new(None, StringViewBuilder::new(), StringViewBuilder::new());
        let mut words = StringDictionaryBuilder::<Int32Type>::new();
        for number in 0..1000 {
            lists.append_value([Some(text(number))]);
            numbers.append_value((0..125).map(Some));
            maps.keys().append_value("key");
            maps.values().append_value(text(number));
            maps.append(true).unwrap();
            words.append_value(text(number));
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        let field = Arc::new(Field::new("lists", lists.data_type().clone(), true));
        let records = StructArray::from(vec![(field, Arc::clone(&lists))]);
        vec![
            views,
            texts,
            lists,
            Arc::new(records),
            Arc::new(maps.finish()),
            Arc::new(numbers.finish()),
            Arc::new(words.finish()),
        ]
    }

    #[test]
    fn a_row_cut_out_of_many_holds_them_all_until_it_is_detached() {
        for array in wide() {
            let kind = array.data_type();
            assert!((1_000_000..5_000_000).contains(&held([&array])), "{kind}: {}", held([&array]));
            let cut = [array.slice(500, 1), take(&array.slice(400, 200), &UInt32Array::from(vec![100]), None).unwrap()];
            for row in cut {
                let alone = detached(Arc::clone(&row));
                assert_eq!(&alone, &row);
                assert!(held([&alone]) < 3_000, "{kind}: {}", held([&alone]));
            }
            assert!(held([&array.slice(500, 1)]) > 1_000_000, "{kind}");
        }
    }

    #[test]
    fn what_rows_show_is_what_they_would_take_alone() {
        for array in wide() {
            let (all, one) = (shown(&array), shown(&array.slice(500, 1)));
            let kind = array.data_type();
            assert!((1_000_000..1_100_000).contains(&all), "{kind}: {all}");
            assert!((1_000..1_100).contains(&one), "{kind}: {one}");
        }
    }

    #[test]
    fn short_values_of_a_large_batch_let_it_go_too() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true; 100_000]));
        let words: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..10_000).map(|number| number.to_string())));
        let sparse: ArrayRef = Arc::new(Int64Array::from_iter((0..10_000).map(|number| (number % 2 == 0).then_some(number))));
        for array in [numbers, flags, words, sparse] {
            let row = array.slice(77, 1);
            let alone = detached(Arc::clone(&row));
            assert_eq!(&alone, &row);
            assert!(held([&alone]) <= 256, "{}: {}", array.data_type(), held([&alone]));
        }
    }

    #[test]
    fn buffers_that_several_columns_share_count_once() {
        let texts = &wide()[0];
        let once = held([texts]);
        assert_eq!(held([texts, texts, &texts.slice(3, 4)]), once);
        let two = held([texts, &wide()[0]]);
        assert_eq!(two, 2 * once);
    }

    #[test]
    fn texts_in_many_places_are_brought_together_and_those_in_few_stay() {
        let part: ArrayRef = Arc::new(StringViewArray::from_iter_values(["a text that is longer than a view"]));
        let parts: Vec<&dyn Array> = vec![&part; FEW_BUFFERS + 1];
        let together = detached(concat(&parts).unwrap());
        assert_eq!(together.as_string_view().data_buffers().len(), 1);
        let again = detached(Arc::clone(&together));
        assert!(Arc::ptr_eq(&again, &together));
    }
}
