//! What every judge of this package does with its verdict, and how it waits for one.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The exit code of the binary `name`: 0 if everything was as it should be, 1 if not, 2 if that could not
/// be found out, which is told with its causes.
pub fn exit_code(name: &str, verdict: Result<bool, Box<dyn Error>>) -> ExitCode {
    match verdict {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::from(2)
        }
    }
}

/// Waits until `is_so`.
///
/// # Errors
/// It is not, within `patience`.
pub async fn wait(
    what: &str,
    patience: Duration,
    mut is_so: impl AsyncFnMut() -> bool,
) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + patience;
    while !is_so().await {
        if Instant::now() > deadline {
            return Err(format!("not within {patience:?}: {what}").into());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(())
}
