//! The group keys of one operator, each stored once: rows of keys in, small numbers out, and back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, UInt64Array};
use arrow::compute::{concat, interleave, take};
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::state::{self, FrameVersion, Loader, Saver};
use crate::error::Result;
use crate::memory::{detached, held};

/// Stands for "no number" where keys are numbered by `u32`.
pub const NONE: u32 = u32::MAX;

/// Below this many keys a dictionary is never compacted: it would cost more than it frees. Tests see it happen.
const FEW_KEYS: usize = if cfg!(test) { 2 } else { 4096 };

/// Numbers distinct keys from 0 on in the order of their coming. Without key columns there is one key, number 0.
pub struct Dictionary {
    schema: SchemaRef,
    numbers: Option<Box<dyn GroupValues>>,
    /// The keys by number. Chunks shrink by halves at least, so there are few, and each key is copied a few times at most.
    chunks: Vec<KeyChunk>,
    len: usize,
    /// The length from which looking for dead keys is worth a pass over the state.
    crowded: usize,
}

struct KeyChunk {
    /// The number of its first key.
    start: usize,
    columns: Vec<ArrayRef>,
    kept: FrameVersion,
}

impl Dictionary {
    /// `schema` has the key columns.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let numbers =
            (!schema.fields().is_empty()).then(|| new_group_values(schema.clone(), &GroupOrdering::None)).transpose()?;
        let len = usize::from(numbers.is_none());
        Ok(Dictionary { schema, numbers, chunks: Vec::new(), len, crowded: FEW_KEYS })
    }

    /// Numbers `rows` rows of key `columns` into `ids`.
    pub fn intern(&mut self, columns: &[ArrayRef], rows: usize, ids: &mut Vec<usize>) -> Result<()> {
        ids.clear();
        let Some(numbers) = &mut self.numbers else {
            ids.resize(rows, 0);
            return Ok(());
        };
        numbers.intern(columns, ids)?;
        let before = self.len;
        let fresh = numbers.len() - before;
        if fresh > 0 {
            let mut seen_at = vec![NONE; fresh];
            for (row, id) in ids.iter().enumerate() {
                if *id >= before && seen_at[*id - before] == NONE {
                    seen_at[*id - before] = row as u32;
                }
            }
            let seen_at = UInt32Array::from(seen_at);
            let chunk = columns.iter().map(|column| Ok(detached(take(column, &seen_at, None)?))).collect::<Result<_>>()?;
            self.append(chunk, fresh)?;
        }
        Ok(())
    }

    fn append(&mut self, chunk: Vec<ArrayRef>, rows: usize) -> Result<()> {
        self.chunks.push(KeyChunk { start: self.len, columns: chunk, kept: FrameVersion::default() });
        self.len += rows;
        while let [.., left, right] = self.chunks.as_slice()
            && self.len - right.start >= right.start - left.start
        {
            let both = left.columns.iter().zip(&right.columns);
            let columns = both.map(|(left, right)| Ok(detached(concat(&[left, right])?))).collect::<Result<_>>()?;
            let joined = KeyChunk { start: left.start, columns, kept: FrameVersion::default() };
            self.chunks.truncate(self.chunks.len() - 2);
            self.chunks.push(joined);
        }
        Ok(())
    }

    /// The key columns of `ids`, in that order; no columns where there are no keys.
    pub fn keys(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        match self.chunks.as_slice() {
            [] => Ok(self.schema.fields().iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect()),
            [KeyChunk { columns, .. }] => {
                if ids.len() == self.len && ids.iter().enumerate().all(|(at, id)| at == *id as usize) {
                    return Ok(columns.clone());
                }
                let ids = UInt32Array::from(ids.to_vec());
                columns.iter().map(|column| Ok(take(column, &ids, None)?)).collect()
            }
            chunks => {
                let places: Vec<(usize, usize)> = ids
                    .iter()
                    .map(|id| {
                        let chunk = chunks.partition_point(|chunk| chunk.start <= *id as usize) - 1;
                        (chunk, *id as usize - chunks[chunk].start)
                    })
                    .collect();
                let columns = (0..self.schema.fields().len()).map(|column| {
                    let parts: Vec<&dyn Array> = chunks.iter().map(|chunk| chunk.columns[column].as_ref()).collect();
                    Ok(interleave(&parts, &places)?)
                });
                columns.collect()
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory of the keys.
    pub fn bytes(&self) -> usize {
        let columns = self.chunks.iter().flat_map(|chunk| &chunk.columns);
        self.numbers.as_ref().map_or(0, |numbers| numbers.size()) + held(columns)
    }

    /// Forgets the keys that `mark` does not name, if there are many: `mark` is handed a list with a place for each number and
    /// sets the living ones. Returns the new number of each old one ([`NONE`] for the dead) if it renumbered.
    pub fn compact(&mut self, mark: impl FnOnce(&mut [bool])) -> Result<Option<Vec<u32>>> {
        if self.len <= self.crowded || self.numbers.is_none() {
            return Ok(None);
        }
        let mut alive = vec![false; self.len];
        mark(&mut alive);
        let living: Vec<u32> = (0..self.len as u32).filter(|id| alive[*id as usize]).collect();
        if living.len() * 2 > self.len {
            self.crowded = self.len * 2;
            return Ok(None);
        }
        let columns = self.keys(&living)?.into_iter().map(detached).collect::<Vec<_>>();
        let old = std::mem::replace(self, Dictionary::new(self.schema.clone())?);
        self.crowded = FEW_KEYS.max(living.len() * 2);
        let mut ids = Vec::with_capacity(living.len());
        self.intern(&columns, living.len(), &mut ids)?;
        let mut renumbered = vec![NONE; old.len];
        for (id, new) in living.iter().zip(ids) {
            renumbered[*id as usize] = new as u32;
        }
        Ok(Some(renumbered))
    }

    /// Gives the keys by number, the dead ones too: numbers decide orders, and when dead keys are forgotten.
    pub fn save(&mut self, state: &mut Saver) -> Result<()> {
        if self.numbers.is_none() {
            return Ok(());
        }
        for KeyChunk { start, columns, kept } in &mut self.chunks {
            state.keep(format_args!("keys/{start}"), kept, || {
                let rows = columns.first().map_or(0, |column| column.len());
                state::rows(columns.iter().map(|column| ("key", Arc::clone(column))), rows)
            })?;
        }
        let crowded: ArrayRef = Arc::new(UInt64Array::from_value(self.crowded as u64, 1));
        state.put("dictionary", state::rows([("crowded", crowded)], 1)?);
        Ok(())
    }

    pub fn load(&mut self, state: &mut Loader) -> Result<()> {
        if self.numbers.is_none() {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for (start, rows) in state.take_all("keys/") {
            chunks.push((state::number::<usize>(&start)?, rows));
        }
        chunks.sort_by_key(|(start, _)| *start);
        for (start, mut rows) in chunks {
            let ids = self.load_keys(&mut rows)?;
            if !ids.iter().map(|id| *id as usize).eq(start..start + rows.len()) {
                return Err(rows.misfit("gives keys that others have given, or leaves some out"));
            }
            rows.end()?;
        }
        let mut saved = state.take("dictionary")?;
        self.crowded = saved.number::<UInt64Type>("crowded")? as usize;
        saved.end()
    }

    /// Numbers the saved keys in `rows`, a column for each; they are distinct.
    pub fn load_keys(&mut self, rows: &mut state::FrameReader) -> Result<Vec<u32>> {
        let schema = Arc::clone(&self.schema);
        let keys: Vec<ArrayRef> =
            schema.fields().iter().map(|field| rows.column("key", field.data_type())).collect::<Result<_>>()?;
        let mut ids = Vec::new();
        self.intern(&keys, rows.len(), &mut ids)?;
        let mut seen = vec![false; self.len];
        if ids.iter().any(|id| std::mem::replace(&mut seen[*id], true)) {
            return Err(rows.misfit("names a key twice"));
        }
        Ok(ids.into_iter().map(|id| id as u32).collect())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn columns(numbers: impl Iterator<Item = i64> + Clone) -> Vec<ArrayRef> {
        vec![
            Arc::new(StringViewArray::from_iter_values(numbers.clone().map(|n| format!("a key that fills a buffer: {n}")))),
            Arc::new(Int64Array::from_iter_values(numbers)),
        ]
    }

    fn dictionary() -> Dictionary {
        let fields = vec![Field::new("a", DataType::Utf8View, true), Field::new("b", DataType::Int64, true)];
        Dictionary::new(Arc::new(Schema::new(fields))).unwrap()
    }

    #[test]
    fn keys_come_back_by_their_numbers_whatever_the_cut() {
        for cut in [1, 3, 7, 1000] {
            let mut dictionary = dictionary();
            let mut ids = Vec::new();
            let numbers: Vec<i64> = (0..300).map(|n| n * 7919 % 97).collect();
            let mut all = Vec::new();
            for part in numbers.chunks(cut) {
                dictionary.intern(&columns(part.iter().copied()), part.len(), &mut ids).unwrap();
                all.extend(ids.iter().map(|id| *id as u32));
            }
            assert_eq!(dictionary.len(), 97);
            let back = dictionary.keys(&all).unwrap();
            let expect = columns(numbers.into_iter());
            assert_eq!(back[0].as_string_view(), expect[0].as_string_view());
            assert_eq!(&back[1], &expect[1]);
            assert!(dictionary.chunks.len() <= 8, "{} chunks", dictionary.chunks.len());
        }
    }

    #[test]
    fn dead_keys_are_forgotten_once_they_are_most() {
        let mut dictionary = dictionary();
        let mut ids = Vec::new();
        for start in (0..10_000).step_by(100) {
            dictionary.intern(&columns(start..start + 100), 100, &mut ids).unwrap();
        }
        assert!(dictionary.compact(|alive| alive.fill(true)).unwrap().is_none());
        for start in (10_000..30_000).step_by(1000) {
            dictionary.intern(&columns(start..start + 1000), 1000, &mut ids).unwrap();
        }
        let renumbered = dictionary.compact(|alive| alive[29_000..].fill(true)).unwrap().unwrap();
        assert_eq!(dictionary.len(), 1000);
        assert_eq!(renumbered[28_999], NONE);
        let keys = dictionary.keys(&[renumbered[29_500]]).unwrap();
        assert_eq!(&keys[1], &columns(29_500..29_501)[1]);
    }
}
