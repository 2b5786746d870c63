//! Markdown tables with aligned columns.

use std::fmt;

/// A table with a header row. Columns of numbers are right-aligned.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with this header row.
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    /// Appends a row.
    ///
    /// # Panics
    ///
    /// Panics if the row and the header row have different lengths.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.rows[0].len(), "a row should have as many cells as the header");
        self.rows.push(cells);
    }

    fn holds_numbers(&self, column: usize) -> bool {
        let number =
            |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit() || "±–".contains(first));
        self.rows[1..].iter().all(|row| number(&row[column]))
    }

    fn widths(&self) -> Vec<usize> {
        let columns = 0..self.rows[0].len();
        columns
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let numbers: Vec<bool> = (0..widths.len()).map(|column| self.holds_numbers(column)).collect();
        for (index, row) in self.rows.iter().enumerate() {
            write!(f, "|")?;
            for ((cell, width), number) in row.iter().zip(&widths).zip(&numbers) {
                match number {
                    true => write!(f, " {cell:>width$} |")?,
                    false => write!(f, " {cell:<width$} |")?,
                }
            }
            writeln!(f)?;
            if index == 0 {
                write!(f, "|")?;
                for (width, number) in widths.iter().zip(&numbers) {
                    write!(f, "{}{}|", "-".repeat(width + 1), if *number { ':' } else { '-' })?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Returns the median: the middle value or the mean of the two middle values. Returns 0 if empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Formats a number with thousands separators.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["name", "µs"]);
        table.row(["a longer name", "1.5"]);
        table.row(["2 b", "–"]);
        assert_eq!(
            table.to_string(),
            "| name          |  µs |\n|---------------|----:|\n| a longer name | 1.5 |\n| 2 b           |   – |\n"
        );
    }

    #[test]
    fn median_of_odd_even_and_empty() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(vec![]).abs() < f64::EPSILON);
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
