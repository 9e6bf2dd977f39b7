//! Source files as the checks see them: strings and comments blanked, tests told from the rest.
//!
//! A parser of Rust this is not: it finds braces, functions, modules and attributes, which is all
//! that the checks need, and it never mistakes the inside of a literal for code.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of the repository.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path from the repository's root, with `/`.
    pub path: String,
    /// The text as it is.
    pub text: String,
    /// Rust only: the text with comments and literals blanked, of the same length in lines.
    pub code: String,
    /// Rust only: `code` with everything under `#[cfg(test)]` blanked too.
    pub product: String,
}

impl SourceFile {
    /// Prepares a file.
    pub fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { blank_literals(text) } else { String::new() };
        let product = blank_tests(&code);
        Self { path: path.into(), text: text.into(), code, product }
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is a test, or exists for tests only.
    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests/")
    }

    /// The file's name without folders.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// A function's place and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
    pub body: std::ops::Range<usize>,
}

/// The functions with a body in blanked code, nested ones included.
pub fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let lines = Lines::of(code);
    let starts = words(code).filter(|(_, word)| *word == "fn").map(|(at, _)| at);
    let found = starts.filter_map(|at| {
        let name = words(&code[at + 2..]).next()?;
        // `fn(u8)` is a type: a name follows a function's keyword at once.
        let is_named = code[at + 2..at + 2 + name.0].trim().is_empty();
        let open = body_start(bytes, at).filter(|_| is_named)?;
        let close = closing_brace(bytes, open)?;
        let line = lines.line_of(at);
        let lines = lines.line_of(close) - line + 1;
        Some(Function { name: name.1.into(), line, lines, body: open..close + 1 })
    });
    found.collect()
}

/// Where the lines of a text end, found once for many questions.
pub struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    pub fn of(text: &str) -> Self {
        Self { ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// The line of a byte, from 1.
    pub fn line_of(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }
}

/// Identifiers, keywords and numbers, with where they begin.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let rest = &code[start..];
        let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        at = start + len;
        Some((start, &rest[..len]))
    })
}

/// The last of the [`words`], found from the end.
pub fn last_word(code: &str) -> Option<&str> {
    let upto = code.trim_end_matches(|c| !is_word(c));
    let start = upto.trim_end_matches(is_word).len();
    Some(&upto[start..]).filter(|word| !word.is_empty())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the body of the function at `at` opens; `None` if it has none.
fn body_start(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in bytes[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at + offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Where the brace at `open` closes.
pub fn closing_brace(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in bytes[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + offset);
        }
    }
    None
}

/// Replaces a range by spaces, keeping line ends.
fn blank(bytes: &mut [u8], range: std::ops::Range<usize>) {
    for byte in &mut bytes[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Blanks comments and the literals of strings and characters.
pub fn blank_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            blank(&mut out, at..end);
            at = end;
        } else {
            // The rest of a word is skipped whole: the `r` of `for"` begins no raw string.
            let word = bytes[at..].iter().take_while(|b| is_word_byte(**b)).count();
            at += word.max(1);
        }
    }
    String::from_utf8(out).expect("whole literals are replaced by ASCII")
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Where the comment or literal that begins at `at` ends; `at` if none begins there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment_len(rest);
    }
    let prefix = rest.iter().take_while(|b| matches!(b, b'b' | b'c' | b'r')).count();
    if prefix <= 2 {
        let after = &rest[prefix..];
        let hashes = after.iter().take_while(|b| **b == b'#').count();
        let is_raw = rest[..prefix].contains(&b'r');
        if after.get(hashes) == Some(&b'"') && (is_raw || hashes == 0) {
            return at + prefix + string_len(after, hashes, is_raw);
        }
    }
    if rest[0] == b'\'' { at + char_len(rest) } else { at }
}

/// The length of a block comment; they nest.
fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

/// The length of a string literal that begins with `hashes` hashes.
fn string_len(rest: &[u8], hashes: usize, is_raw: bool) -> usize {
    let mut at = hashes + 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' if !is_raw => at += 2,
            b'"' if rest[at + 1..].iter().take(hashes).filter(|b| **b == b'#').count()
                == hashes =>
            {
                return at + 1 + hashes;
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal; 0 for a lifetime.
fn char_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest.iter().skip(3).position(|b| *b == b'\'').map_or(0, |p| p + 4);
    }
    let first = std::str::from_utf8(&rest[1..rest.len().min(5)])
        .or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]));
    let width = first.ok().and_then(|s| s.chars().next()).map_or(1, char::len_utf8);
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
}

/// Blanks every item under `#[cfg(test)]`.
fn blank_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let at = from + found;
        let after = at + "#[cfg(test)]".len();
        let end = match (code[after..].find('{'), code[after..].find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|s| open < s) => {
                closing_brace(code.as_bytes(), after + open).map_or(code.len(), |close| close + 1)
            }
            (_, Some(semicolon)) => after + semicolon + 1,
            _ => code.len(),
        };
        blank(&mut out, at..end);
        from = end;
    }
    String::from_utf8(out).expect("whole items are replaced by ASCII")
}

/// Every text file of the repository that the checks look at.
pub fn repository(root: &Path) -> Vec<SourceFile> {
    const SKIPPED: [&str; 4] = ["target", ".git", "polyraft-data", "node_modules"];
    const KINDS: [&str; 9] = ["rs", "md", "toml", "proto", "sh", "yml", "yaml", "json", "service"];
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder)).expect("the repository is readable");
        for entry in entries {
            let entry = entry.expect("the repository is readable");
            let path = folder.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("the repository is readable");
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(path);
            } else if kind.is_file() && KINDS.iter().any(|k| name.ends_with(&format!(".{k}"))) {
                let text = fs::read_to_string(root.join(&path)).expect("text files are UTF-8");
                files.push(SourceFile::new(&path.to_string_lossy(), &text));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_blanked_and_lines_kept() {
        let text = concat!(
            "let a = \"{ // \\\" \"; // }\n",
            "let b = r#\"{\"{\"#; /* { /* { */ } */\n",
            "let c: &'a str = '{'; let d = '\\'' ; let e = b\"{\"; let u = '\u{e9}';\n",
            "for x in y {}\n",
        );
        let code = blank_literals(text);
        assert_eq!(code.lines().count(), 4, "{code}");
        assert_eq!(code.matches('{').count(), 1, "{code}");
        assert!(code.contains("&'a str") && code.contains("for x in y {}"), "{code}");
    }

    #[test]
    fn functions_are_measured_with_their_signature() {
        let code =
            "fn a(\n  x: [u8; 2],\n) {\n  fn b() {}\n}\ntrait T { fn c(); }\ntype F = fn(u8);";
        let found: Vec<_> =
            functions(code).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("a".into(), 1, 5), ("b".into(), 4, 1)]);
    }

    #[test]
    fn a_line_ends_with_its_end() {
        let lines = Lines::of("ab\n\nc");
        assert_eq!([0, 2, 3, 4].map(|at| lines.line_of(at)), [1, 1, 2, 3]);
    }

    #[test]
    fn the_last_word_is_the_one_that_all_words_end_with() {
        for code in ["", "::", "one", "one::<two>", "a(b_1) + ", "\u{e9}t\u{e9} \u{2192}"] {
            assert_eq!(last_word(code), words(code).last().map(|(_, word)| word), "{code}");
        }
    }

    #[test]
    fn tests_are_no_product() {
        let file =
            SourceFile::new("x.rs", "fn a() {}\n#[cfg(test)]\nmod t { fn b() {} }\nfn c() {}");
        assert_eq!(functions(&file.code).len(), 3);
        assert_eq!(functions(&file.product).len(), 2);
    }
}
