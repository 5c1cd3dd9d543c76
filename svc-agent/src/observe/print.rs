//! Prints rows: tables for people, JSON for programs. A row says its columns once; no other place formats lists.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

/// How a list is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// Aligned columns, more of them.
    Wide,
    /// One array of objects; names and meaning of the fields stay as they are.
    Json,
}

/// One line of a list. The JSON form is its `Serialize`.
pub trait Row: Serialize {
    /// Column titles and whether a column is only part of the wide form.
    const COLUMNS: &'static [(&'static str, Width)];
    /// As many cells as there are columns.
    fn cells(&self) -> Vec<String>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    Always,
    Wide,
}

pub fn print<R: Row>(rows: &[R], format: Format, out: &mut dyn Write) -> io::Result<()> {
    if format == Format::Json {
        serde_json::to_writer_pretty(&mut *out, rows)?;
        return writeln!(out);
    }
    let shown: Vec<bool> =
        R::COLUMNS.iter().map(|(_, width)| *width == Width::Always || format == Format::Wide).collect();
    let pick = |cells: Vec<String>| -> Vec<String> {
        cells.into_iter().zip(&shown).filter_map(|(cell, shown)| shown.then_some(cell)).collect()
    };

    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(pick(R::COLUMNS.iter().map(|(title, _)| (*title).to_owned()).collect()));
    for row in rows {
        table.add_row(pick(row.cells()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    writeln!(out, "{}", table.trim_fmt())
}

/// Bytes for people: "512", "1.5Ki", "12Mi".
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if count < 1024 {
        return count.to_string();
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// Seconds for people: "5s", "3m20s", "2h5m", "4d3h".
pub fn age(seconds: u32) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_two_digits_at_least() {
        let cases = [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (10_240, "10Ki"), (1_500_000, "1.4Mi")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16Ei");
    }

    #[test]
    fn ages_name_two_units() {
        let cases = [(0, "0s"), (119, "119s"), (120, "2m0s"), (3_599, "59m59s"), (3_600, "1h0m"), (90_000, "1d1h")];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }
}
