//! WebDriver: a headless Chromium, driven through chromedriver.
//!
//! ```text
//! Browser ─JSON over HTTP→ chromedriver ─→ chromium, with a profile of its own
//! ```
//!
//! Promise: what is typed goes through the keyboard, to wherever the focus is. The browser and its driver
//! end with the [`Browser`]. Needs Debian's `chromium-driver`.
//! Not here: what is looked at.
//! Source: W3C, "WebDriver"; `goog/cdp` and `se/log` are chromedriver's own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node_process::ProcessError;
use crate::ports::free_tcp_port;

/// How long the driver may take to listen, and one command to be done.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// The member that holds an element's reference.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys that have no character, as WebDriver writes them.
pub mod keys {
    /// To the next control.
    pub const TAB: char = '\u{e004}';
    /// Submits, presses.
    pub const ENTER: char = '\u{e007}';
    /// Presses.
    pub const SPACE: char = ' ';
}

/// Why the browser did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrowserError {
    /// The driver's port or process cannot be had.
    #[error("the browser's driver did not start")]
    Process(#[from] ProcessError),
    /// The driver cannot be reached, or went away.
    #[error("{command}: no answer from the browser's driver")]
    Io {
        /// What was asked for.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The driver refused.
    #[error("{command}: {message}")]
    Refused {
        /// What was asked for.
        command: String,
        /// What the driver said.
        message: String,
    },
}

/// The size of a window, and how it prefers its colours.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// A device that is held in a hand.
    pub is_phone: bool,
    /// Light on dark.
    pub is_dark: bool,
}

/// A browser with one window.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser.
    ///
    /// # Errors
    /// There is no chromedriver, or it cannot start a browser.
    pub async fn start() -> Result<Self, BrowserError> {
        let port = free_tcp_port()?;
        let io = |source| BrowserError::Io { command: "starting chromedriver".to_owned(), source };
        let profile = tempfile::tempdir().map_err(io)?;
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io)?;
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        browser.wait_until_listening().await?;
        let folder = browser._profile.path().display().to_string();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--lang=en",
            &format!("--user-data-dir={folder}"),
        ];
        let asked = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let started = browser.ask("POST", "/session", Some(asked)).await?;
        browser.session = started["sessionId"].as_str().unwrap_or_default().to_owned();
        Ok(browser)
    }

    async fn wait_until_listening(&self) -> Result<(), BrowserError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask("GET", "/status", None).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// Opens a page.
    ///
    /// # Errors
    /// See [`BrowserError`].
    pub async fn open(&self, url: &str) -> Result<(), BrowserError> {
        self.command("url", json!({"url": url})).await.map(drop)
    }

    /// What a function's body returns, run in the page.
    ///
    /// # Errors
    /// See [`BrowserError`]; also if it throws.
    pub async fn run(&self, body: &str) -> Result<Value, BrowserError> {
        self.command("execute/sync", json!({"script": body, "args": []})).await
    }

    /// Presses and releases each key in turn.
    ///
    /// # Errors
    /// See [`BrowserError`].
    pub async fn press(&self, keys: &str) -> Result<(), BrowserError> {
        let both = |key: char| {
            ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}))
        };
        let actions: Vec<_> = keys.chars().flat_map(both).collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.command("actions", json!({"actions": [keyboard]})).await.map(drop)
    }

    /// The name and the role by which assistive technology knows each element that `css` selects.
    ///
    /// # Errors
    /// See [`BrowserError`].
    pub async fn names(&self, css: &str) -> Result<Vec<(String, String)>, BrowserError> {
        let asked = json!({"using": "css selector", "value": css});
        let found = self.command("elements", asked).await?;
        let mut names = Vec::new();
        for element in found.as_array().into_iter().flatten() {
            let element = element[ELEMENT].as_str().unwrap_or_default();
            let about = async |what: &str| {
                let path = format!("/session/{}/element/{element}/{what}", self.session);
                let text = self.ask("GET", &path, None).await?;
                Ok::<_, BrowserError>(text.as_str().unwrap_or_default().to_owned())
            };
            names.push((about("computedlabel").await?, about("computedrole").await?));
        }
        Ok(names)
    }

    /// Makes the window look like `screen`.
    ///
    /// # Errors
    /// See [`BrowserError`].
    pub async fn show_on(&self, screen: Screen) -> Result<(), BrowserError> {
        let Screen { width, height, is_phone, is_dark } = screen;
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = if is_dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools("Emulation.setEmulatedMedia", json!({"features": [feature]})).await
    }

    async fn devtools(&self, method: &str, params: Value) -> Result<(), BrowserError> {
        let command = json!({"cmd": method, "params": params});
        self.command("goog/cdp/execute", command).await.map(drop)
    }

    /// What the window shows, as a PNG.
    ///
    /// # Errors
    /// See [`BrowserError`].
    pub async fn screenshot(&self) -> Result<Vec<u8>, BrowserError> {
        let path = format!("/session/{}/screenshot", self.session);
        let text = self.ask("GET", &path, None).await?;
        STANDARD.decode(text.as_str().unwrap_or_default()).map_err(|error| BrowserError::Refused {
            command: "screenshot".to_owned(),
            message: error.to_string(),
        })
    }

    /// What the console has said since it was last asked.
    ///
    /// # Errors
    /// See [`BrowserError`].
    pub async fn console(&self) -> Result<Vec<String>, BrowserError> {
        let said = self.command("se/log", json!({"type": "browser"})).await?;
        let lines = said.as_array().into_iter().flatten();
        Ok(lines.map(|line| format!("{} {}", line["level"], line["message"])).collect())
    }

    async fn command(&self, name: &str, body: Value) -> Result<Value, BrowserError> {
        let path = format!("/session/{}/{name}", self.session);
        self.ask("POST", &path, Some(body)).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, BrowserError> {
        let command = path.rsplit('/').next().unwrap_or_default().to_owned();
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let exchange = exchange(self.port, method, path, &body);
        let answer = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let answer =
            answer.map_err(|source| BrowserError::Io { command: command.clone(), source })?;
        let mut answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let value = answer["value"].take();
        match value["error"].as_str() {
            None => Ok(value),
            Some(error) => {
                let message = format!("{error}: {}", value["message"].as_str().unwrap_or_default());
                Err(BrowserError::Refused { command, message })
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its browser ends with the session; who only loses the driver stays. There is no runtime to
        // wait in here, and a driver on the same machine answers at once.
        let path = format!("/session/{}", self.session);
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
            use std::io::{Read, Write};
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(head("DELETE", &path, 0).as_bytes());
            let _ = stream.read(&mut [0; 256]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn head(method: &str, path: &str, body_len: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {body_len}\r\n\r\n"
    )
}

/// The body of the answer. The driver may keep the connection, and says how long its answer is.
async fn exchange(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all((head(method, path, body.len()) + body).as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if let Some(body) = whole_body(&answer) {
            return Ok(body.to_vec());
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The body, once all of it is there.
fn whole_body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let body = &answer[end + 4..];
    length.trim().parse().ok().and_then(|length| body.get(..length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_taken_when_all_of_it_is_there() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}\r\n";
        assert_eq!(whole_body(answer), Some(&b"{}\r\n"[..]));
        for upto in 0..answer.len() {
            assert_eq!(whole_body(&answer[..upto]), None, "{upto}");
        }
    }
}
