//! A disk whose power can be cut: ext4 on a loop device over a sparse file.
//!
//! ```text
//! file → loop device → ext4 ─cut→ every write fails, nothing unsynced reaches the device
//!                           ─restore→ unmounted, mounted again: the journal is replayed
//! ```
//!
//! Promise: after `cut`, what was not synced before is gone, as after a power failure of a disk that
//! keeps its word about flushes. Needs root.
//! Source: `EXT4_IOC_SHUTDOWN` in fs/ext4/ext4.h; xfstests' `godown`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// Room for whatever a run writes; sparse.
pub const DISK_BYTES: u64 = 4 << 30;
/// Pieces of a ballast, first; then half, and so on down to a byte.
const BALLAST_PIECE_BYTES: usize = 1 << 20;
/// `_IOR('X', 125, __u32)`; despite its name the value is read from the caller.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Without flushing ext4's journal first.
const NO_LOG_FLUSH: u32 = 2;

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A command of the system failed.
    #[error("{command} failed: {output}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        output: String,
    },
    /// A file cannot be used.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file system cannot be shut down.
    #[error("EXT4_IOC_SHUTDOWN of {}", mount.display())]
    Shutdown {
        /// Where it is mounted.
        mount: PathBuf,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
}

/// One disk, mounted. Unmounted and detached when dropped.
pub struct Disk {
    device: String,
    mount: PathBuf,
}

impl Disk {
    /// Makes a disk of so many bytes over the new file `image` and mounts it at the new directory `mount`.
    ///
    /// # Errors
    /// Not root, no loop device, or no room.
    fn create(image: &Path, mount: &Path, bytes: u64) -> Result<Self, DiskError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::Io { path, source }
        };
        let file = File::create_new(image).map_err(io(image))?;
        file.set_len(bytes).map_err(io(image))?;
        fs::create_dir_all(mount).map_err(io(mount))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(image))?;
        let disk = Self { device, mount: mount.to_owned() };
        disk.mount()?;
        Ok(disk)
    }

    /// A disk for each of three processes, whose images lie in `dir`, mounted at `mount` of each.
    ///
    /// # Errors
    /// As [`Disk::create`].
    pub fn create_three(
        dir: &Path,
        mount: impl Fn(usize) -> PathBuf,
        bytes: u64,
    ) -> Result<Vec<Self>, DiskError> {
        let image = |at: usize| dir.join(format!("disk-{}", at + 1));
        (0..3).map(|at| Self::create(&image(at), &mount(at), bytes)).collect()
    }

    /// Cuts the power: from here on the file system writes nothing and every sync fails.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn cut(&self) -> Result<(), DiskError> {
        let root = File::open(&self.mount)
            .map_err(|source| DiskError::Io { path: self.mount.clone(), source })?;
        // SAFETY: the kernel reads one u32 through the pointer and writes nothing (ext4_force_shutdown).
        #[allow(unsafe_code)]
        let cut = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        cut.map_err(|source| DiskError::Shutdown { mount: self.mount.clone(), source })
    }

    /// Takes all the room that is left, until the file that is returned is removed.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn fill(&self) -> Result<PathBuf, DiskError> {
        let path = self.mount.join("ballast");
        let mut ballast =
            File::create(&path).map_err(|source| DiskError::Io { path: path.clone(), source })?;
        let mut piece = vec![7; BALLAST_PIECE_BYTES];
        while !piece.is_empty() {
            // What was taken into the cache may find no room later.
            if ballast.write_all(&piece).and_then(|()| ballast.sync_data()).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(path)
    }

    /// Makes everything that was written so far durable.
    ///
    /// # Errors
    /// The system cannot.
    pub fn sync(&self) -> Result<(), DiskError> {
        let root = File::open(&self.mount);
        let synced = root.and_then(|root| Ok(rustix::fs::syncfs(&root)?));
        synced.map_err(|source| DiskError::Io { path: self.mount.clone(), source })
    }

    /// Mounts what survived. Nobody may have a file of it open.
    ///
    /// # Errors
    /// It is in use, or damaged beyond mounting.
    pub fn restore(&self) -> Result<(), DiskError> {
        run(Command::new("umount").arg(&self.mount))?;
        self.mount()
    }

    fn mount(&self) -> Result<(), DiskError> {
        run(Command::new("mount").arg(&self.device).arg(&self.mount)).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for command in [
            Command::new("umount").arg(&self.mount),
            Command::new("losetup").arg("--detach").arg(&self.device),
        ] {
            if let Err(error) = run(command) {
                eprintln!("left behind: {error}");
            }
        }
    }
}

/// Runs a command to its end; what it printed, without the line's end.
fn run(command: &mut Command) -> Result<String, DiskError> {
    let failed = |output: String, command: &Command| {
        let command = format!("{command:?}");
        Err(DiskError::Command { command, output })
    };
    match command.output() {
        Err(error) => failed(error.to_string(), command),
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        }
        Ok(output) => {
            failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned(), command)
        }
    }
}
