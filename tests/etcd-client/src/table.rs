//! Tables for people: columns as wide as what is in them.

/// Rows of cells under a head, as lines of text.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<_> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<_> = std::iter::once(&head).chain(rows).collect();
    let width = |at: usize| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["longer".to_owned(), "1".to_owned()], vec!["ä".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["a", "n"], &rows), "a       n\nlonger  1\nä       22\n");
    }
}
