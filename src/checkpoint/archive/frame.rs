//! The rows of a frame as an Arrow IPC stream of one batch, and back.
//!
//! Uncompressed: what is read is used where it lies, nothing is allocated by a length that the bytes claim, and a checkpoint costs the
//! flow little more than a copy.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamEncoder;
use arrow::ipc::{Message, root_as_message};

/// The bytes of a frame, in pieces that share the memory of the rows.
pub fn encode(rows: &RecordBatch) -> Result<Vec<Buffer>, ArrowError> {
    let mut encoder = StreamEncoder::try_new(rows.schema_ref())?;
    let mut pieces = encoder.encode(rows)?;
    pieces.extend(encoder.finish()?);
    Ok(pieces)
}

/// The rows in the bytes of a frame, which may be any: what they are not is the end of a sentence about them.
pub fn decode(bytes: Buffer) -> Result<RecordBatch, String> {
    // Arrow's reader checks much, and meets the rest with assertions.
    catch_unwind(AssertUnwindSafe(|| {
        uncompressed(&bytes)?;
        read(bytes).map_err(|error| format!("its rows cannot be read: {error}"))?.ok_or_else(|| "it has no rows".to_string())
    }))
    .unwrap_or_else(|_| Err("its rows contradict each other".into()))
}

/// The only batch of a stream.
fn read(mut bytes: Buffer) -> Result<Option<RecordBatch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut rows = None;
    while !bytes.is_empty() {
        if let Some(batch) = decoder.decode(&mut bytes)?
            && rows.replace(batch).is_some()
        {
            return Err(ArrowError::IpcError("a second batch".into()));
        }
    }
    decoder.finish()?;
    Ok(rows)
}

/// A compressed buffer says how long it is; what it says would be allocated.
fn uncompressed(mut bytes: &[u8]) -> Result<(), String> {
    while let Some((message, body)) = message(bytes)? {
        let batch =
            message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch().and_then(|batch| batch.data()));
        if batch.is_some_and(|batch| batch.compression().is_some()) {
            return Err("its rows are compressed, which this version does not read".into());
        }
        let length = usize::try_from(message.bodyLength()).unwrap_or(usize::MAX);
        bytes = body.get(length..).ok_or("it is shorter than it says")?;
    }
    Ok(())
}

/// The next message, and the bytes from its body on. `None` at the end.
fn message(bytes: &[u8]) -> Result<Option<(Message<'_>, &[u8])>, String> {
    let short = || "it is shorter than it says".to_string();
    let (marker, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
    if *marker != [0xff; 4] {
        return Err("it is no Arrow stream".into());
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 {
        return Ok(None);
    }
    let (head, body) = rest.split_at_checked(length).ok_or_else(short)?;
    let message = root_as_message(head).map_err(|error| format!("it is no Arrow stream: {error}"))?;
    Ok(Some((message, body)))
}
