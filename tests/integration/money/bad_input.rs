//! What no provider could take is refused at once, each with one clear error that names its place; nothing is fetched.

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::houses::{House, Used};
use super::place::{Place, Providers, Reply, ask, parse};

const USED: Used = Used {
    fresh: 10,
    hit: 0,
    written_5m: 0,
    written_1h: 0,
    said: 2,
    thought: 0,
};

const MODEL: &str = "[[models]]\nid = \"p/m\"\ncontext_window = 1000000\nmax_output_tokens = 4096\n\
     modalities = [\"text\", \"image\", \"pdf\", \"audio\", \"video\"]\n[models.price]\n\
     input_per_mtok = 1.0\noutput_per_mtok = 2.0\n[[routes]]\nname = \"auto\"\nmodels = [\"p/m\"]\n";

async fn place() -> (Providers, Place) {
    let providers = Providers::open(|_| Reply::Whole(House::OpenAi.whole("Seen.", Some(&USED)))).await;
    let place = Place::open(&(providers.toml("p", "openai") + MODEL)).await;
    (providers, place)
}

fn data(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes))
}

fn image(url: &str) -> Value {
    json!([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}])
}

fn file(bytes: &str) -> Value {
    json!([{"type": "text", "text": "What is it?"}, {"type": "file", "file": {"filename": "a.pdf", "file_data": bytes}}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_content_is_one_clear_error() {
    let (providers, place) = place().await;
    let cases = [
        (image("data:image/png;base64,!!!"), "not base64"),
        (
            image(&data("image/png", b"this is no picture at all")),
            "not an image that can be recognised",
        ),
        (image("data:image/png;base64,"), "not base64"),
        (image("file:///etc/passwd"), "neither a data URL nor a link"),
        (image("http://127.0.0.1:8080/a.png"), "private address"),
        (
            image("http://169.254.169.254/latest/meta-data"),
            "private address",
        ),
        (image("https://[::1]/a.png"), "private address"),
        (image("http://10.0.0.8/a.png"), "private address"),
        (image("http://user@localhost:99/a.png"), "private address"),
        (image("http://[::ffff:7f00:1]/a.png"), "private address"),
        (image("http://10.0.0.8.nip.example/a.png"), "private address"),
        (image("http://127%2e0%2e0%2e1/a.png"), "whose host is unclear"),
        (
            json!([{"type": "document", "source": {"type": "url", "url": "http://10.0.0.8/a.pdf"}}]),
            "private address",
        ),
        (
            file(&data("application/pdf", b"MZ this is a program")),
            "is not a PDF",
        ),
        (file("data:application/pdf;base64,***"), "not base64"),
        (
            json!([{"type": "file", "file": {"filename": "a.pdf"}}]),
            "without data or id",
        ),
        (
            json!([{"type": "input_audio", "input_audio": {"data": "**", "format": "wav"}}]),
            "not base64",
        ),
    ];
    for (content, why) in cases {
        let told = place
            .post("/v1/chat/completions", &ask("auto", content.clone()))
            .await;
        assert_eq!(
            (told.status, told.body["error"]["code"].clone()),
            (400, json!("invalid_request")),
            "{told:?}"
        );
        assert!(told.message().contains(why), "{why}: {}", told.message());
        let param = told.body["error"]["param"].as_str().unwrap_or_default();
        assert!(param.starts_with("messages[0].content["), "{param}");
        assert!(
            !told.message().contains("this is no picture"),
            "content is not repeated"
        );
    }
    assert!(providers.got().is_empty(), "nobody was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_and_giants_are_looked_at_in_bounded_time() {
    let (_providers, place) = place().await;
    // 200 MB of zeros in a few hundred kilobytes, in an object stream that the look opens.
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..200 {
        packed.write_all(&zeros).unwrap();
    }
    let mut bomb = b"%PDF-1.5\n1 0 obj\n<< /Type /ObjStm /Filter /FlateDecode >>\nstream\n".to_vec();
    bomb.extend(packed.finish().unwrap());
    let told = place
        .post("/v1/route", &ask("auto", file(&data("application/pdf", &bomb))))
        .await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(told.body["content"]["pdfs"][0]["pages"], Value::Null);
    // An hour in an unoptimised build would not do either.
    assert!(
        told.body["look"]["took_us"].as_u64().unwrap() < 2_000_000,
        "{}",
        told.body["look"]
    );

    // A table of objects that goes in circles, and one that claims four billion entries.
    for table in [
        "xref\n0 1\n0000000000 65535 f \ntrailer << /Prev 9 /Root 1 0 R >>\nstartxref\n9\n%%EOF",
        "xref\n0 4294967295\ntrailer << /Root 4000000000 0 R >>\nstartxref\n9\n%%EOF",
    ] {
        let pdf = format!("%PDF-1.4\n{table} /Font");
        let told = place
            .post(
                "/v1/route",
                &ask("auto", file(&data("application/pdf", pdf.as_bytes()))),
            )
            .await;
        assert_eq!(told.status, 200, "{told:?}");
    }

    // Words that a look could go back and forth between: object streams whose data never comes, nodes of a page tree
    // without a dictionary, and streams by the hundred thousand.
    for (word, last) in [
        ("/ObjStm", "stream\n"),
        ("/Type/Pages", ""),
        ("/ObjStm stream\n", ""),
    ] {
        let pdf = "%PDF-1.5\n".to_owned() + &word.repeat((4 << 20) / word.len() - 9) + last;
        let told = place
            .post(
                "/v1/route",
                &ask("auto", file(&data("application/pdf", pdf.as_bytes()))),
            )
            .await;
        assert_eq!(told.status, 200, "{told:?}");
        let took = told.body["look"]["took_us"].as_u64().unwrap();
        assert!(took < 2_000_000, "{word}: {took} us");
    }

    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\x06\0\0\0".to_vec();
    png.resize(8 << 20, 0);
    let told = place
        .post("/v1/route", &ask("auto", image(&data("image/png", &png))))
        .await;
    assert_eq!(told.status, 200, "{told:?}");
    assert!(
        told.body["estimated_input_tokens"].as_u64().unwrap() < 10_000,
        "{told:?}"
    );

    let huge = ask("auto", image(&data("image/png", &vec![0; 26 << 20])));
    let told = place.post("/v1/chat/completions", &huge).await;
    assert_eq!(
        (told.status, told.body["error"]["code"].clone()),
        (413, json!("payload_too_large"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_passed_on_and_never_followed() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (providers, place) = place().await;
    // A public name, which nobody here resolves.
    let link = "https://pictures.invalid/a.png";
    let told = place
        .post("/v1/chat/completions", &ask("auto", image(link)))
        .await;
    assert_eq!(told.status, 200, "{told:?}");
    let got = providers.got().remove(0);
    assert_eq!(got.body["messages"][0]["content"][1]["image_url"]["url"], link);
    let own = format!("http://{}/a.png", trap.local_addr().unwrap());
    let told = place
        .post("/v1/chat/completions", &ask("auto", image(&own)))
        .await;
    assert_eq!(told.status, 400);
    // Whoever had followed it would stand at the door by now.
    let nobody = tokio::time::timeout(std::time::Duration::from_millis(50), trap.accept()).await;
    assert!(nobody.is_err());
}

#[test]
fn prices_that_cannot_be_are_each_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from(
        "[[providers]]\nname = \"p\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"\n",
    );
    let wrong = [
        "input_per_mtok = -0.1\noutput_per_mtok = 1.0",
        "input_per_mtok = nan\noutput_per_mtok = 1.0",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\ntiers = [{ above_tokens = 9, input_per_mtok = 2.0 }, { above_tokens = 9, input_per_mtok = 3.0 }]",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nwindows = [{ start = \"09:00\", end = \"25:00\", multiplier = 2.0 }]",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nwindows = [{ start = \"09:00\", end = \"09:00\", multiplier = 2.0 }]",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nwindows = [{ start = \"09:00\", end = \"12:00\", multiplier = -1.0 }]",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nwindows = [{ start = \"09:00\", end = \"12:00\", multiplier = 2.0 }, { start = \"11:00\", end = \"13:00\", multiplier = 3.0 }]",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nwindows = [{ timezone = \"Mars/Phobos\", start = \"09:00\", end = \"12:00\", multiplier = 2.0 }]",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nrouting_fee_percent = 101.0",
        "input_per_mtok = 1.0\noutput_per_mtok = 1.0\nrequest_fee_usd = -0.5",
    ];
    for (number, price) in wrong.iter().enumerate() {
        write!(
            text,
            "[[models]]\nid = \"p/m{number}\"\ncontext_window = 1000\n[models.price]\n{price}\n"
        )
        .unwrap();
    }
    let error = pointsman::config::parse(&text, pointsman::config::Source::Text, &|_| None).unwrap_err();
    for (number, mistake) in wrong.iter().enumerate() {
        let own: Vec<_> = error
            .0
            .iter()
            .filter(|problem| problem.path.starts_with(&format!("models[{number}].price")))
            .collect();
        assert_eq!(own.len(), 1, "{mistake}: {own:?}");
        assert!(own[0].line.is_some(), "{own:?}");
    }
    assert_eq!(error.0.len(), wrong.len(), "{error}");
    // The program says the same, each once, and ends with 2.
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, &text).unwrap();
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(2), "{check:?}");
    let said = String::from_utf8(check.stderr).unwrap() + &String::from_utf8(check.stdout).unwrap();
    for problem in &error.0 {
        let told = said.lines().filter(|line| line.contains(&problem.path));
        assert_eq!(told.count(), 1, "{problem:?}\n{said}");
    }
    // The same file without them is sound.
    let rest = text.split("[[models]]").next().unwrap().to_owned()
        + "[[models]]\nid = \"p/m\"\ncontext_window = 1000\n";
    parse(&folder.path().join("data"), &rest);
}
