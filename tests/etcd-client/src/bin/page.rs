//! Looks at a node's status page in a headless Chromium while its cluster forms, loses a node, and has a
//! link cut through the page itself, whose bearer may only look at first.
//!
//! ```text
//! page --binary PATH/polyraft [--screenshots DIR] [--keyspaces K]
//! node 1 → its page → nodes 2, 3 → load → node 3 killed, back → link cut, ended by keyboard
//!        → an actor killed by keyboard → phone, dark → node 1 killed: the page says that it is stale
//! ```
//!
//! Fails unless each is seen on the page; unless the page fits a phone's width, is dark where dark is
//! preferred, has text of enough contrast, and a name for each control; and if the console ever complains.
//! With `--screenshots`, what was seen is kept there. Needs Debian's `chromium-driver`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::keyspaces;
use polyraft_etcd_client_tests::node_process::{Cluster, Settings, write_secret};
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::webdriver::{Browser, Screen, keys};
use tokio::task::JoinHandle;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Lets its bearer look.
const READ_TOKEN: &str = "read-token-of-the-status-page-test-0123456789";
/// Lets its bearer inject faults too.
const CHAOS_TOKEN: &str = "chaos-token-of-the-status-page-test-0123456789";
/// How long anything may take to be seen; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// More than there are controls on the page.
const TABS_MAX: usize = 60;
/// For text that is not large: WCAG 2.1, 1.4.3.
const CONTRAST_MIN: f64 = 4.5;

/// Of a screenshot.
const HEIGHT_MAX: u32 = 1_400;
const DESK: Screen = Screen { width: 1180, height: 890, is_phone: false, is_dark: false };
const PHONE: Screen = Screen { width: 360, height: 1400, is_phone: true, is_dark: true };

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("page", run().await)
}

async fn run() -> Outcome<bool> {
    let known = ["binary", "screenshots", "keyspaces"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let groups: Vec<_> = (1..=arguments.get_or("keyspaces", 16_u64)?).collect();
    let none = PathBuf::new();
    let screenshots = Some(arguments.get_or("screenshots", none)?);
    let screenshots = screenshots.filter(|path| !path.as_os_str().is_empty());

    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("read-token");
    write_secret(&secret, READ_TOKEN)?;
    let tables = format!("[server.admin_access]\nread_token_file = {secret:?}\n");
    let settings = Settings { groups: &groups, profile: "lan", tables: &tables };
    let mut cluster = Cluster::prepare_with(&binary, dir.path(), settings)?;
    cluster.enable_chaos(CHAOS_TOKEN)?;
    let browser = Browser::start().await?;
    let mut page = Page { browser, screenshots };
    page.browser.show_on(DESK).await?;

    formation(&mut page, &mut cluster).await?;
    let load = put_for_ever(cluster.endpoints()[0].clone(), groups.len());
    pipeline(&mut page).await?;
    lost_node(&mut page, &mut cluster).await?;
    cut_link(&mut page).await?;
    disturbed_actor(&mut page).await?;
    looks(&mut page).await?;
    page.expect_silence().await?;
    load.abort();
    staleness(&mut page, &mut cluster).await?;
    Ok(true)
}

/// One node alone is not ready; with the others it is.
async fn formation(page: &mut Page, cluster: &mut Cluster) -> Outcome<()> {
    cluster.start(0)?;
    let url = format!("http://{}/", cluster.admin(0));
    outcome::wait("the page", PATIENCE, async || page.is_served(&url).await).await?;
    page.sees("a token is asked for", "document.activeElement.id === 'token'").await?;
    page.give_token(READ_TOKEN).await?;
    page.sees("one node alone is not ready", "text('#state') === 'not ready'").await?;
    page.sees("its links are down", "all('#links tr td:nth-child(2)', 'down')").await?;
    cluster.start(1)?;
    cluster.start(2)?;
    page.sees("formation: both links are up", "all('#links tr td:nth-child(2)', 'connected')")
        .await?;
    page.sees("formation: the node is ready", "text('#state') === 'ready'").await?;
    page.sees("every group is led", "text('#groups-leaderless') === '0'").await?;
    cluster.wait_until_serving(0).await?;
    page.sees("who leads how much adds up", LEADERS_ADD_UP).await?;
    page.sees("events tell of links", "text('#events').includes('connected to node 2')").await
}

const LEADERS_ADD_UP: &str = "[...document.querySelectorAll('#leaders td:nth-child(2)')]
    .reduce((sum, cell) => sum + Number(cell.textContent), 0) === Number(text('#groups-total'))";

/// Under load there are figures for stages and batches, of the last seconds.
async fn pipeline(page: &mut Page) -> Outcome<()> {
    page.sees(
        "the pipeline has figures",
        "[...document.querySelectorAll('#stages tr')].filter(row =>
             /[µm]?s$/.test(row.children[1].textContent)).length >= 1
         && text('#batch').startsWith('p50') && text('#window').startsWith('last')",
    )
    .await?;
    // The trail of a few seconds more.
    page.sees("a trail", "document.querySelector('.spark polyline').points.numberOfItems >= 12")
        .await?;
    page.screenshot("rest", DESK).await
}

async fn lost_node(page: &mut Page, cluster: &mut Cluster) -> Outcome<()> {
    cluster.kill(2)?;
    page.sees("a killed node", &format!("{} === 'bad'", look_of(3))).await?;
    page.sees("its end is an event", "text('#events').includes('lost the connection to node 3')")
        .await?;
    page.sees("the others lead on", "text('#groups-leaderless') === '0'").await?;
    page.screenshot("node-down", DESK).await?;
    cluster.start(2)?;
    page.sees("it is back", &format!("{} === 'good'", look_of(3))).await
}

/// Everything is done by keyboard: the switch, the token, the switch again.
async fn cut_link(page: &mut Page) -> Outcome<()> {
    let switch = "#links tr[data-key='2'] button";
    page.tab_to(switch).await?;
    page.browser.press(&keys::SPACE.to_string()).await?;
    let asked = "document.activeElement.id === 'token' && text('#token-why').includes('destroy')";
    page.sees("a token that allows more is asked for", asked).await?;
    page.give_token(CHAOS_TOKEN).await?;
    page.sees("a cut link", &format!("{} === 'warn'", look_of(2))).await?;
    page.sees("the fault is in force", "text('#faults').includes('cut')").await?;
    page.sees("the loss is an event", "text('#events').includes('lost the connection to node 2')")
        .await?;
    page.screenshot("link-cut", DESK).await?;
    page.tab_to(switch).await?;
    page.browser.press(&keys::SPACE.to_string()).await?;
    page.sees("the fault is ended", "!text('#faults').includes('cut')").await?;
    page.sees("the link is back", &format!("{} === 'good'", look_of(2))).await
}

/// How the row of a peer looks.
fn look_of(peer: u64) -> String {
    format!("document.querySelector(\"#links tr[data-key='{peer}'] td\").className")
}

/// A death is told once, as a restart; a pause can be ended.
async fn disturbed_actor(page: &mut Page) -> Outcome<()> {
    page.tab_to("#actor-form button[value='kill']").await?;
    page.browser.press(&keys::ENTER.to_string()).await?;
    let restart = "default: group died; life 2 has begun";
    page.sees("a killed actor's next life", &format!("text('#events').includes('{restart}')"))
        .await?;
    page.sees("it is told once", &format!("text('#events').split('{restart}').length === 2"))
        .await?;
    page.tab_to("#actor-form button[value='pause']").await?;
    page.browser.press(&keys::ENTER.to_string()).await?;
    page.sees("a paused actor", "text('#faults').includes('stall_actor')").await?;
    page.tab_to("#faults button").await?;
    page.browser.press(&keys::SPACE.to_string()).await?;
    page.sees("its pause is ended", "document.querySelector('#faults').children.length === 0").await
}

/// Phone, dark and light; contrast; names.
async fn looks(page: &mut Page) -> Outcome<()> {
    for screen in
        [DESK, Screen { is_dark: true, ..DESK }, Screen { is_dark: false, ..PHONE }, PHONE]
    {
        page.browser.show_on(screen).await?;
        let name = format!("{} px, dark: {}", screen.width, screen.is_dark);
        page.sees(
            &format!("{name}: no sideways scrolling"),
            "document.documentElement.scrollWidth <= window.innerWidth
             && [...document.querySelectorAll('main *')].every(element =>
                 element.closest('.unseen') || element.getBoundingClientRect().right <= window.innerWidth)",
        )
        .await?;
        let is_dark = "luminance(getComputedStyle(document.body).backgroundColor) < 0.05";
        let expected = format!("{is_dark} === {}", screen.is_dark);
        page.sees(&format!("{name}: the colours that are preferred"), &expected).await?;
        page.sees(
            &format!("{name}: contrast of {CONTRAST_MIN} or more"),
            &format!("lowestContrast() >= {CONTRAST_MIN}"),
        )
        .await?;
    }
    page.screenshot("phone-dark", PHONE).await?;
    page.browser.show_on(DESK).await?;
    page.expect_names().await
}

async fn staleness(page: &mut Page, cluster: &mut Cluster) -> Outcome<()> {
    cluster.kill(0)?;
    page.sees("a page without its node is stale", "text('#state').startsWith('stale')").await
}

/// Puts into every keyspace until it is aborted: some of them are led by the node that is looked at.
fn put_for_ever(endpoint: String, count: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            // What fails is tried again.
            let _ = keyspaces::visit(std::slice::from_ref(&endpoint), count, PATIENCE).await;
        }
    })
}

/// What every question to the page may use.
const WORDS: &str = r"
    const text = css => document.querySelector(css).textContent;
    const all = (css, start) => {
        const found = [...document.querySelectorAll(css)];
        return found.length > 0 && found.every(element => element.textContent.startsWith(start));
    };
    const channels = color => color.match(/[\d.]+/g).map(Number);
    const luminance = color => {
        const part = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = channels(color).slice(0, 3).map(value => part(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (channels(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const contrast = element => {
        const tones = [getComputedStyle(element).color, behind(element)].map(luminance);
        return (Math.max(...tones) + 0.05) / (Math.min(...tones) + 0.05);
    };
    const lowestContrast = () => Math.min(...[...document.querySelectorAll('body *')].filter(element =>
        element.checkVisibility() && !element.closest('svg, script, .unseen, .skip, option') &&
        [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(contrast));
";

/// The page in a browser.
struct Page {
    browser: Browser,
    screenshots: Option<PathBuf>,
}

impl Page {
    async fn is_served(&self, url: &str) -> bool {
        let opened = self.browser.open(url).await.is_ok();
        opened && matches!(self.is_so("text('h1') !== ''").await, Ok(true))
    }

    async fn is_so(&self, question: &str) -> Outcome<bool> {
        let body = format!("{WORDS}\nreturn Boolean({question});");
        Ok(self.browser.run(&body).await?.as_bool().unwrap_or(false))
    }

    /// Waits until the page answers the question with yes, and says how long that took. A question about
    /// what is not drawn yet throws, which is no answer.
    async fn sees(&self, what: &str, question: &str) -> Outcome<()> {
        let since = Instant::now();
        loop {
            let answer = self.is_so(question).await;
            if matches!(answer, Ok(true)) {
                break;
            }
            if since.elapsed() > PATIENCE {
                answer?;
                let shown = self.browser.run("return document.body.innerText").await?;
                let shown = shown.as_str().unwrap_or_default();
                return Err(format!("not seen: {what}; the page shows:\n{shown}").into());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        println!("{:6.1} s  {what}", since.elapsed().as_secs_f64());
        Ok(())
    }

    /// Presses Tab until the control that `css` selects has the focus.
    async fn tab_to(&self, css: &str) -> Outcome<()> {
        let question = format!("document.activeElement.matches({css:?})");
        for _ in 0..TABS_MAX {
            if self.is_so(&question).await? {
                return Ok(());
            }
            self.browser.press(&keys::TAB.to_string()).await?;
        }
        Err(format!("{css} cannot be reached with the Tab key").into())
    }

    async fn give_token(&self, token: &str) -> Outcome<()> {
        self.browser.press(token).await?;
        Ok(self.browser.press(&keys::ENTER.to_string()).await?)
    }

    async fn screenshot(&self, name: &str, screen: Screen) -> Outcome<()> {
        let Some(dir) = &self.screenshots else { return Ok(()) };
        let whole = "return document.documentElement.scrollHeight";
        self.browser.show_on(Screen { height: 1, ..screen }).await?;
        let height = self.browser.run(whole).await?.as_u64().unwrap_or_default();
        let height = u32::try_from(height)?.min(HEIGHT_MAX);
        self.browser.show_on(Screen { height, ..screen }).await?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(format!("{name}.png")), self.browser.screenshot().await?)?;
        Ok(())
    }

    /// Every control, picture and landmark has a name.
    async fn expect_names(&self) -> Outcome<()> {
        let (css, since) = ("button, input, select, a, [role=img], main section", Instant::now());
        // What is drawn anew while it is asked about is asked again.
        let names = loop {
            match self.browser.names(css).await {
                Err(_) if since.elapsed() < PATIENCE => tokio::time::sleep(LOOK_PAUSE).await,
                names => break names?,
            }
        };
        let hidden = |role: &str| role == "none" || role.is_empty() || role == "generic";
        let nameless = names.iter().filter(|(name, role)| name.is_empty() && !hidden(role));
        let nameless: Vec<_> = nameless.map(|(_, role)| role.as_str()).collect();
        if names.len() < 10 || !nameless.is_empty() {
            return Err(format!("of {} controls, nameless: {nameless:?}", names.len()).into());
        }
        println!("          {} controls and landmarks, each with a name", names.len());
        self.sees(
            "one heading of the first level, a language, no id twice",
            "document.querySelectorAll('h1').length === 1 && document.documentElement.lang === 'en'
             && new Set([...document.querySelectorAll('[id]')].map(element => element.id)).size
                === document.querySelectorAll('[id]').length",
        )
        .await
    }

    /// Nothing was refused by the page's policy, and nothing was thrown. That a token was asked for is
    /// said by the browser itself.
    async fn expect_silence(&self) -> Outcome<()> {
        let mut said = self.browser.console().await?;
        said.retain(|line| !line.contains("status of 401") && !line.contains("status of 403"));
        if said.is_empty() {
            println!("          the console says nothing");
            return Ok(());
        }
        Err(format!("the console said:\n{}", said.join("\n")).into())
    }
}
