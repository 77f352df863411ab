//! The file, row by row: CSV with a header, gzip-compressed or not.
//!
//! A row that cannot be understood comes out as a problem with its line number, and reading goes on behind it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use csv::{ErrorKind, StringRecord};
use flate2::bufread::MultiGzDecoder;

use super::row::{Columns, Reading};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BUFFER: usize = 1 << 16;

/// An open file.
pub struct Source {
    file: PathBuf,
    reader: csv::Reader<Box<dyn Read>>,
    columns: Columns,
    record: StringRecord,
}

impl Source {
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// Where the file cannot be read or lacks a column.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot read {}", file.display());
        let mut input = BufReader::with_capacity(BUFFER, File::open(file).with_context(context)?);
        let compressed = input.fill_buf().with_context(context)?.starts_with(&GZIP);
        let input: Box<dyn Read> =
            if compressed { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
        // Rows of another length are for us to report, not a reason to stop.
        let mut reader = csv::ReaderBuilder::new().flexible(true).buffer_capacity(BUFFER).from_reader(input);
        let header = reader.headers().with_context(context)?;
        let columns = Columns::of(header)
            .with_context(|| format!("{} is not in the Online Retail form", file.display()))?;
        Ok(Self { file: file.to_owned(), reader, columns, record: StringRecord::new() })
    }

    /// The next row and its line number; `None` at the end.
    ///
    /// # Errors
    /// Where the file cannot be read further, as when it was cut off while compressed.
    pub fn read_row(&mut self) -> anyhow::Result<Option<(u64, Result<Reading<'_>, String>)>> {
        let before = self.reader.position().line();
        match self.reader.read_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let line = self.record.position().map_or(before, csv::Position::line);
                Ok(Some((line, self.columns.read(&self.record))))
            }
            Err(error) => {
                let line = error.position().map_or(before, csv::Position::line);
                match error.kind() {
                    ErrorKind::Utf8 { .. } => Ok(Some((line, Err("not UTF-8".to_owned())))),
                    _ => Err(error)
                        .with_context(|| format!("cannot read {} behind line {before}", self.file.display())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HEADER: &str =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
    const ROW: &str = "536365,85123A,\"HEART, WHITE\",6,2010-12-01T08:26:00Z,2.55,17850,United Kingdom\n";

    fn read(bytes: &[u8]) -> anyhow::Result<Vec<(u64, Result<String, String>)>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        let mut source = Source::open(file.path())?;
        let mut rows = Vec::new();
        while let Some((line, row)) = source.read_row()? {
            rows.push((line, row.map(|reading| format!("{reading:?}"))));
        }
        Ok(rows)
    }

    #[test]
    fn a_malformed_row_is_named_by_its_line_and_reading_goes_on() {
        let mut bytes = format!("{HEADER}{ROW}too,short\n").into_bytes();
        bytes.extend_from_slice(b"536365,\xff,x,6,2010-12-01T08:26:00Z,2.55,17850,UK\n");
        bytes.extend_from_slice(ROW.as_bytes());
        let rows = read(&bytes).unwrap();
        let problems: Vec<_> =
            rows.iter().filter_map(|(line, row)| Some((*line, row.as_ref().err()?.as_str()))).collect();
        assert_eq!(problems, [(3, "2 fields instead of 8"), (4, "not UTF-8")]);
        assert!(rows[0].1.is_ok() && rows[3].1.is_ok() && rows[3].0 == 5, "{rows:?}");
    }

    #[test]
    fn a_compressed_file_reads_as_its_content() {
        let text = format!("{HEADER}{ROW}");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        let compressed = gzip.finish().unwrap();
        assert_eq!(read(&compressed).unwrap(), read(text.as_bytes()).unwrap());
        let error = read(&compressed[..compressed.len() - 12]).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error:#}");
    }

    #[test]
    fn a_file_of_another_form_is_refused() {
        let error = format!("{:#}", read(b"a,b\n1,2\n").unwrap_err());
        assert!(error.ends_with("is not in the Online Retail form: there is no column InvoiceNo"), "{error}");
    }
}
