//! The dashboard and the reports in a real browser, while requests come.

mod browser;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use browser::Browser;
use pointsman::app::{App, Options, Parts};
use pointsman::config::{self, Source};
use pointsman::demo;
use pointsman::providers::http_client;
use pointsman::providers::simulated::recorded;
use pointsman::server;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const KEY: &str = "dashboard-test-key";

/// The demonstration's providers behind a client key, with a budget and an experiment.
async fn serve(folder: &Path) -> (App, String) {
    let toml = demo::config_toml(&recorded().unwrap(), "127.0.0.1:0", &folder.join("data"))
        .replace("[server]\n", "[server]\napi_keys_env = [\"POINTSMAN_API_KEY\"]\n")
        .replace("speed=20", "speed=2000")
        // The page is compared with what it showed a moment ago: none starts by itself meanwhile.
        .replace("experiments = {", "experiments = { enabled = false,")
        .replace(
            "quality_margin = 0.01\n",
            "quality_margin = 0.01\nbudget = { usd = 5.0, period = \"day\" }\n",
        );
    let more = "\n[embedding]\nmodel = \"off\"\n[[experiments]]\nname = \"pair\"\nroute = \"auto\"\n\
         hypothesis = \"non_inferior\"\nmargin = 0.01\nsplit = \"fixed\"\n\
         arms = { control = \"sim-google/gemini-2.5-pro\", treatment = \"sim-mistral/mistral-large-2512\" }\n";
    let env = |name: &str| (name == "POINTSMAN_API_KEY").then(|| KEY.to_owned());
    let config = config::parse(&(toml + more), Source::Text, &env).unwrap();
    let models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let app = Parts::start(config, &Options { models_dir, seed: 3 }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(server::serve(listener, app.clone(), std::future::pending()));
    (app, base_url)
}

/// Asks and rates until it is told to stop.
async fn load(base_url: String, stop: Arc<AtomicBool>) {
    let http = http_client(Duration::from_secs(1)).unwrap();
    let post = async |path: &str, body: Value| {
        let request = http.post(format!("{base_url}{path}")).bearer_auth(KEY);
        let request = request
            .header("content-type", "application/json")
            .body(body.to_string());
        let text = request.send().await.unwrap().text().await.unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        let content = format!("What are {asked} and {asked}?");
        let body = json!({"model": "auto", "messages": [{"role": "user", "content": content}]});
        let answer = post("/v1/chat/completions", body).await;
        let score = f64::from(asked % 5) / 5.0;
        post(
            "/v1/feedback",
            json!({"id": answer["id"], "metric": "quality", "score": score}),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_dashboard_lives_in_a_real_browser() {
    let folder = tempfile::tempdir().unwrap();
    let (app, base_url) = serve(folder.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(load(base_url.clone(), Arc::clone(&stop)));
    let looked = tokio::task::spawn_blocking(move || look(&base_url)).await;
    stop.store(true, Ordering::Relaxed);
    asking.await.unwrap();
    app.dispatcher.idle().await;
    app.stop().await;
    app.store.close();
    looked.unwrap();
}

fn look(base_url: &str) {
    let mut page = Browser::open();
    page.width(1280, 900);
    page.media("light", "");
    page.go(&format!("{base_url}/"));
    enter(&mut page, base_url);
    panels(&mut page);
    lives(&mut page);
    by_keyboard(&mut page);
    held(&mut page);
    everywhere(&mut page, "dashboard");
    page.picture("dashboard-light");

    // A link opens the report, with the key where a plain link could not carry it.
    page.js("document.querySelector('#experiments a').focus()");
    page.press("Enter");
    page.follow("blob:");
    page.wait("document.title.startsWith('Experiment pair')");
    assert!(page.js("document.querySelectorAll('svg').length").as_u64() >= Some(2));
    answers(&mut page);
    page.width(1000, 900);
    everywhere(&mut page, "report");
    page.media("dark", "print");
    // The paper between the margins of an A4 page.
    page.width(718, 900);
    assert_eq!(page.js(WIDER), json!([]), "cut on paper");
    assert_eq!(
        page.js("getComputedStyle(document.body).backgroundColor"),
        "rgb(255, 255, 255)",
        "paper is white, whatever the screen is"
    );
    page.picture("report-print");
    assert_eq!(page.errors(), Vec::<String>::new());
    for url in page.requests() {
        let inside = [base_url, "data:", "blob:"]
            .iter()
            .any(|prefix| url.starts_with(prefix));
        assert!(inside, "something outside was asked for: {url}");
    }
}

/// Without the key nothing is shown and nothing asked for; with it, typed in, everything is.
fn enter(page: &mut Browser, base_url: &str) {
    page.wait("!document.getElementById('login').hidden");
    assert_eq!(page.js("document.getElementById('all').hidden"), true);
    assert!(
        !page
            .requests()
            .iter()
            .any(|url| url.starts_with(&format!("{base_url}/v1/")))
    );
    page.js("document.getElementById('key').focus()");
    page.write(KEY);
    page.press("Enter");
    page.wait("!document.getElementById('all').hidden && document.getElementById('login').hidden");
    assert_eq!(
        page.js("document.activeElement.id"),
        "all",
        "the form is gone, and the keyboard is at what it asked for"
    );
}

/// Every panel comes to show what it is for.
fn panels(page: &mut Browser) {
    let text =
        |id: &str, what: &str| format!("document.getElementById('{id}').textContent.includes({what:?})");
    page.wait("document.querySelectorAll('#plots svg').length === 3");
    page.wait("document.querySelector('#experiments .track') !== null");
    for (id, what) in [
        ("headline", "Routing costs"),
        ("figures", "Saved so far"),
        ("figures", "Mean score"),
        ("experiments", "it must lie above -0.01"),
        ("experiments", "a request costs"),
        ("budgets", "route auto"),
        ("budgets", "$5.00"),
        ("quality", "mistral-large-2512"),
        ("quality", "±"),
        ("providers", "samples"),
        ("providers", "sim-google"),
        ("circuits", "closed"),
        ("recent", "why this model?"),
        ("recent", "by the experiment pair="),
        ("reports", "pair"),
    ] {
        page.wait(&text(id, what));
    }
    assert_eq!(page.js("document.querySelectorAll('#budgets .bar').length"), 1);
    many_models(page);
    costs(page);
}

/// A cost far above the baseline is said in times, and one that is not known is said to be unknown.
fn costs(page: &mut Browser) {
    let told = page.js(
        "(() => { paused = true;
          const o = { requests: 4, scored: 0, spent_usd: 0, compared_usd: 13.34, baseline_usd: 1, reference: 'p/best', unpriced_attempts: 2 };
          const one = (name) => [...document.querySelectorAll('#figures > *')].find((f) => f.textContent.startsWith(name)).textContent;
          headline(o); figures(o);
          const told = [document.getElementById('headline').textContent, one('Saved so far'), one('Spent')];
          paused = false; return told; })()",
    );
    let told: Vec<&str> = told
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        told[0].starts_with("Routing costs 13 times as much as always using best"),
        "{told:?}"
    );
    assert_eq!(told[1], "Saved so far-$12.3413 times the $1.00 of always p/best");
    assert_eq!(told[2], "Spentunknownplus 2 attempts of unknown cost");
}

/// More models than there are colours, with a name that has no place to break.
fn many_models(page: &mut Browser) {
    page.width(375, 800);
    let told = page.js(
        "(() => { const arms = [...Array(10).keys()].map((i) => 'p/' + (i ? i : 'x'.repeat(80)));
          const point = (at) => ({ at, requests: 55, scored: 0, spent_usd: 1, baseline_usd: 2, drawn: arms.map((_, i) => 10 - i) });
          plots({ points: [point(0), point(1000)], arms, reference: 'p/1' });
          const figure = document.querySelectorAll('#plots figure')[1];
          const heights = [...figure.querySelectorAll('polygon')].at(-1).getAttribute('points').split(' ').map((p) => Number(p.split(',')[1]));
          return { last: [...figure.querySelectorAll('li')].at(-1).textContent, top: Math.min(...heights), wide: document.documentElement.scrollWidth }; })()",
    );
    assert_eq!(told["last"], "3 others");
    assert_eq!(told["top"], 8, "the shares of all fill the plot");
    assert_eq!(told["wide"], 375);
    page.width(1280, 900);
}

/// The figures move while requests come.
fn lives(page: &mut Browser) {
    let requests = "Number([...document.querySelectorAll('#figures > *')]\
        .find((one) => one.textContent.startsWith('Requests'))\
        .querySelector('.value').textContent.replace(/,/g, ''))";
    let before = page.js(requests).as_f64().unwrap();
    assert!(before > 0.0);
    page.wait(&format!("{requests} > {before} + 10"));
    assert!(
        page.js("document.getElementById('state').textContent")
            .as_str()
            .unwrap()
            .starts_with("live")
    );
}

/// Everything that can be operated or scrolled is reached with Tab, and Enter works.
fn by_keyboard(page: &mut Browser) {
    page.js("document.activeElement.blur()");
    let mut reached = Vec::new();
    for _ in 0..20 {
        page.press("Tab");
        let what = page.js("document.activeElement.id || document.activeElement.tagName");
        if what == "pause" {
            assert_eq!(
                page.js("getComputedStyle(document.activeElement).outlineStyle"),
                "solid",
                "the focus can be seen"
            );
            page.press("Enter");
            assert_eq!(
                page.js("document.getElementById('pause').getAttribute('aria-pressed')"),
                "true"
            );
            page.press("Enter");
            assert_eq!(
                page.js("document.getElementById('pause').getAttribute('aria-pressed')"),
                "false"
            );
        }
        reached.push(what.as_str().unwrap().to_owned());
    }
    for wanted in [
        "pause",
        "budgets",
        "quality",
        "providers",
        "circuits",
        "recent",
        "A",
    ] {
        assert!(
            reached.iter().any(|what| what == wanted),
            "{wanted} in {reached:?}"
        );
    }
}

/// The figures change every other second, and what somebody is at does not: not even for the moment in which a screen
/// reader would begin anew.
fn held(page: &mut Browser) {
    page.js(
        "held = document.querySelector('#experiments a'); held.focus(); moved = 0; \
         document.addEventListener('focusin', () => moved++)",
    );
    for _ in 0..2 {
        let figures = page.js("document.getElementById('figures').textContent");
        page.wait(&format!(
            "document.getElementById('figures').textContent !== {figures}"
        ));
    }
    assert_eq!(page.js("document.activeElement === held && moved"), 0);

    // Another experiment before it does not take its place.
    page.js(
        "fill($('experiments'), [el('div', {class: 'experiment', 'data-about': 'other'}, link('other')), \
         ...[...$('experiments').childNodes].map((node) => node.cloneNode(true))])",
    );
    assert_eq!(page.js("document.querySelectorAll('#experiments a').length"), 2);
    assert_eq!(page.js("document.activeElement === held && moved"), 0);
    // What changes places keeps the focus, and what is no more leaves it to the part that it was in.
    page.js("replace($('experiments'), [...$('experiments').childNodes].reverse().map((node) => node.cloneNode(true)))");
    assert_eq!(
        page.js("document.activeElement.getAttribute('href')"),
        "/reports/pair/report.html"
    );
    page.js("replace($('experiments'), empty('None runs.'))");
    assert_eq!(page.js("document.activeElement.id"), "experiments");
    page.wait("document.querySelectorAll('#experiments a').length === 1");
}

/// A newcomer's five questions are answered in the first screen, and no table has to be scrolled.
fn answers(page: &mut Browser) {
    page.width(1280, 900);
    let asked = page.js("[...document.querySelectorAll('dl.questions dt')].map((node) => node.textContent)");
    assert_eq!(
        asked,
        json!([
            "What was compared?",
            "Is it over?",
            "What does it save?",
            "How sure is that?",
            "What should I do?"
        ])
    );
    let unanswered =
        "[...document.querySelectorAll('dl.questions dd')].filter((node) => !node.textContent.trim()).length";
    assert_eq!(page.js(unanswered), 0);
    let end = page.js("document.querySelector('dl.questions').getBoundingClientRect().bottom + scrollY");
    assert!(end.as_f64().unwrap() <= 900.0, "{end}");
    for width in [1280, 1100, 800, 375] {
        page.width(width, 900);
        assert_eq!(page.js(WIDER), json!([]), "cut at {width} px");
    }
}

/// The tables that are wider than their place.
const WIDER: &str = "[...document.querySelectorAll('.scroll')].filter((part) => part.scrollWidth > part.clientWidth) \
    .map((part) => part.getAttribute('aria-label') + ' ' + part.scrollWidth + ' > ' + part.clientWidth)";

/// Readable in light and dark, and no wider than a phone.
fn everywhere(page: &mut Browser, name: &str) {
    for scheme in ["light", "dark"] {
        page.media(scheme, "");
        let worst = page.js(CONTRAST).as_f64().unwrap();
        assert!(
            worst >= 4.5,
            "{name}, {scheme}: text with a contrast of {worst:.2}"
        );
        page.picture(&format!("{name}-{scheme}"));
    }
    page.media("light", "");
    page.width(375, 800);
    page.wait("document.documentElement.scrollWidth <= 375");
    page.picture(&format!("{name}-phone"));
    page.width(1280, 900);
}

/// The least contrast (WCAG 2.2, 1.4.3) between a text and the nearest background behind it.
const CONTRAST: &str = "(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => { c /= 255; return c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; })
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const c = channels(getComputedStyle(node).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  let worst = 21;
  for (const node of document.querySelectorAll('main *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.closest('svg') || node.closest('[hidden]')) continue;
    const a = light(channels(getComputedStyle(node).color)), b = light(behind(node));
    worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return worst;
})()";
