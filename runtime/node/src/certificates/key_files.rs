//! Files of keys and certificates: written whole or not at all, and never lost.
//!
//! ```text
//! write_all_new: none may exist        replace: new beside it ─sync→ link to backup/ ─→ rename over it
//! ```
//!
//! Promise: a private key is readable by its owner alone from the moment its file exists. What is
//! replaced is in `backup/` before it is; whoever reads meanwhile sees the old or the new, nothing else.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use super::CertificateError;

/// Keys: only the owner reads them. Certificates: everybody may.
pub(super) const KEY_MODE: u32 = 0o600;
pub(super) const CERTIFICATE_MODE: u32 = 0o644;
/// Where what was replaced is kept, beside it; keys among it.
pub(super) const BACKUP_DIR: &str = "backup";
const BACKUP_DIR_MODE: u32 = 0o700;

/// Reads a text file.
pub(super) fn read(path: &Path) -> Result<String, CertificateError> {
    std::fs::read_to_string(path).map_err(io(path))
}

/// As [`read`]; an absent file is empty.
pub(super) fn read_or_empty(path: &Path) -> Result<String, CertificateError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(io(path)),
    }
}

/// Writes files that must not exist, durably; when one cannot be written, those before it go again.
pub(super) fn write_all_new(files: &[(&Path, &str, u32)]) -> Result<(), CertificateError> {
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        return Err(CertificateError::Exists { path: path.to_path_buf() });
    }
    for (written, (path, text, mode)) in files.iter().enumerate() {
        if let Err(error) = write_new(path, text, *mode) {
            for (path, ..) in &files[..written] {
                // The error that is returned says more than a second one about cleaning up would.
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Writes one file that must not exist, with `mode` from its first moment.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => CertificateError::Exists { path: path.into() },
        _ => CertificateError::Io { path: path.into(), source },
    })
}

/// Puts `text` in the place of `path`, whose former content is kept in the backup.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let new = path.with_extension("new");
    // Left by an attempt that was interrupted: nobody has used it.
    let _ = std::fs::remove_file(&new);
    write_new(&new, text, mode)?;
    let replaced = back_up(path).and_then(|()| std::fs::rename(&new, path).map_err(io(path)));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    replaced.and_then(|()| sync_dir(path))
}

/// Keeps a file in the backup only.
pub(super) fn put_away(path: &Path) -> Result<(), CertificateError> {
    back_up(path)?;
    std::fs::remove_file(path).map_err(io(path))?;
    sync_dir(path)
}

/// Links a file, if it exists, into the backup, under the time and its own name.
fn back_up(path: &Path) -> Result<(), CertificateError> {
    if !path.exists() {
        return Ok(());
    }
    let dir = path.with_file_name(BACKUP_DIR);
    DirBuilder::new().recursive(true).mode(BACKUP_DIR_MODE).create(&dir).map_err(io(&dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
    let kept = dir.join(format!("{}.{now}", name));
    std::fs::hard_link(path, &kept).map_err(io(&kept))
}

fn sync_dir(path: &Path) -> Result<(), CertificateError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CertificateError {
    let path = path.to_owned();
    move |source| CertificateError::Io { path, source }
}
