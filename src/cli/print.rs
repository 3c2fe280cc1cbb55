//! Result rows as text, in the format asked for; several views share it line by line.

use arrow::datatypes::SchemaRef;

use super::args::Format;
use super::sink::{Sink, SinkPosition};
use crate::change::Changes;
use crate::engine::Output;
use crate::error::{Code, Error, Result};
use crate::format::encode::{self, Encoder};
use crate::zone::{self, Zone};

/// Writes the changes of one or more results. Each call is flushed: what came is seen.
pub struct Printer<'a> {
    sink: &'a mut Sink,
    format: Format,
    results: Vec<PrintedResult>,
    /// Whether anything has been written.
    begun: bool,
    buffer: Vec<u8>,
}

struct PrintedResult {
    /// Shown where several results share the output.
    title: Option<String>,
    encoder: Encoder,
}

impl<'a> Printer<'a> {
    /// A printer of running queries, in the order of `outputs`; instants are shown by the clocks of `zone`.
    pub fn of(sink: &'a mut Sink, format: Format, outputs: &[Output], zone: Zone) -> Result<Self> {
        let several = outputs.len() > 1;
        if several && format == Format::Csv {
            return Err(Error::new(Code::BadOption, "several views have different columns, which one CSV cannot hold")
                .hint("choose one with -c 'SELECT * FROM view', or give --format ndjson"));
        }
        let result = |output: &Output| {
            let mut result = printed(format, &output.schema, output.changelog, zone);
            if let (true, Some(name)) = (several, &output.name) {
                result.encoder = result.encoder.view(name);
                result.title = Some(name.clone());
            }
            result
        };
        Ok(Printer { sink, format, results: outputs.iter().map(result).collect(), begun: false, buffer: Vec::new() })
    }

    /// A printer of rows that are there already.
    pub fn rows(sink: &'a mut Sink, format: Format, schema: &SchemaRef, zone: Zone) -> Self {
        Printer { sink, format, results: vec![printed(format, schema, false, zone)], begun: false, buffer: Vec::new() }
    }

    /// Prints changes of result `index`, at most `most` of them (an update is one). Gives how many.
    pub fn print(&mut self, index: usize, changes: &Changes, most: u64) -> Result<u64> {
        let (changes, count) = changes.first(most);
        if count == 0 {
            return Ok(0);
        }
        let result = &mut self.results[index];
        if let (Format::Table, Some(title)) = (self.format, &result.title) {
            self.buffer.extend_from_slice(title.as_bytes());
            self.buffer.push(b'\n');
        }
        if self.begun {
            result.encoder.resume();
        }
        result.encoder.write(&changes, &mut self.buffer)?;
        self.begun = true;
        self.flush()?;
        Ok(count)
    }

    /// Ends the text: closes a JSON array, writes the header of a CSV without rows.
    pub fn finish(mut self) -> Result<()> {
        let last = if self.format == Format::Ndjson { None } else { self.results.first_mut() };
        if let Some(result) = last {
            if self.begun {
                result.encoder.resume();
            }
            result.encoder.finish(&mut self.buffer);
        }
        self.flush()
    }

    /// Goes on with a file that earlier runs have written to, or begins it: each run as if it were the same one.
    pub fn resume(&mut self) -> Result<()> {
        if self.format == Format::Csv
            && let Some(result) = self.results.first_mut()
        {
            let mut header = Vec::new();
            result.encoder.finish(&mut header);
            if self.sink.length() == 0 {
                self.sink.write(&header)?;
            } else if !self.sink.begins_with(&header)? {
                return Err(Error::new(
                    Code::Data,
                    "the file that the state goes on with has other columns than the view has now",
                )
                .hint("begin anew with another --state directory and another file"));
            }
        }
        self.begun = true;
        Ok(())
    }

    /// Brings all that was printed to the disk, if it is for a file, and says how far that is.
    pub fn settle(&mut self) -> Result<SinkPosition> {
        self.sink.settle()
    }

    fn flush(&mut self) -> Result<()> {
        self.sink.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn printed(format: Format, schema: &SchemaRef, changelog: bool, zone: Zone) -> PrintedResult {
    let output = match format {
        Format::Table => encode::Encoding::Table,
        Format::Csv => encode::Encoding::Csv,
        Format::Json => encode::Encoding::Json,
        Format::Ndjson => encode::Encoding::Ndjson,
    };
    let schema = zone::shown_in(schema, zone);
    let encoder = if changelog { Encoder::changelog(output, &schema) } else { Encoder::append_only(output, &schema) };
    PrintedResult { title: None, encoder }
}
