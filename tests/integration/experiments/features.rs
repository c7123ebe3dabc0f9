//! A new version of what looks at prompts is compared with the one before it, over a restart, and gives way to it when
//! somebody takes it back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pointsman::features::text::TextView;

use super::House;
use super::kinds::{EASY, HARD, chances, to_its_end, undo};

/// An artefact with one byte of its body changed, and its checksum made to fit.
fn altered(bytes: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut body = bytes[..bytes.len() - 8].to_vec();
    change(&mut body);
    let digest = xxhash_rust::xxh3::xxh3_64(&body);
    body.extend(digest.to_le_bytes());
    body
}

/// The shipped models with another text view: the same words mean a hair of something else. The classifier names it.
fn other_models(into: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let view = std::fs::read(shipped.join("text-view.bin")).unwrap();
    let version = |bytes: &[u8]| TextView::read(bytes).unwrap().version().to_string();
    let old = version(&view);
    // The name of a version must be as long as the old one's, or the classifier's file would have to grow.
    let (other, new) = (1..=255u8)
        .map(|bits| {
            altered(&view, |body| {
                let at = body.len() - 4;
                body[at] ^= bits;
            })
        })
        .map(|bytes| (version(&bytes), bytes))
        .find(|(name, _)| name.len() == old.len())
        .map(|(name, bytes)| (bytes, name))
        .unwrap();
    let classifier = std::fs::read(shipped.join("classifier.bin")).unwrap();
    let classifier = altered(&classifier, |body| {
        let at = body.windows(old.len()).position(|part| part == old.as_bytes());
        body[at.unwrap()..][..new.len()].copy_from_slice(new.as_bytes());
    });
    std::fs::write(into.join("text-view.bin"), other).unwrap();
    std::fs::write(into.join("classifier.bin"), classifier).unwrap();
    let seed = std::fs::read_to_string(shipped.join("seed-prior.json")).unwrap();
    let named = |version: &str| format!("\"text\":\"{version}\"");
    assert!(
        seed.contains(&named(&old)),
        "the seed names the view that it was fitted by"
    );
    let seed = seed.replace(&named(&old), &named(&new));
    // Without the checksum, which is that of the shipped file.
    let (seed, _) = seed.rsplit_once(",\"checksum\":").unwrap();
    let seed = format!("{seed}}}");
    std::fs::write(into.join("seed-prior.json"), seed).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_text_view_is_compared_with_the_former_one_and_gives_way_to_it() {
    let open = |toml: String| {
        toml.replace("traffic = 0.5", "traffic = 1.0")
            .replace(
                "objective = \"cheapest_capable\"\n",
                "objective = \"max_quality\"\n",
            )
            .replace("quality_margin = 0.01\n", "")
    };
    let house = House::open("", open).await;
    for i in 0..80 {
        house.ask(i, Some(0.9)).await;
    }
    let both = async |house: &House| {
        let (easy, hard) = (chances(house, EASY, None).await, chances(house, HARD, None).await);
        [easy.0, hard.0]
    };
    let before = both(&house).await;
    let folder = house.close().await;

    let models = tempfile::tempdir().unwrap();
    other_models(models.path());
    let again = async |folder: Arc<tempfile::TempDir>| {
        let config = House::config(&folder, "", open);
        House::looking_with(folder, config, models.path().to_owned()).await
    };
    let house = again(folder).await;
    let list = house.get("/v1/experiments").await;
    let view = &list["experiments"][0];
    let name = view["definition"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("features-auto-text"), "{list}");
    assert_eq!(view["definition"]["origin"], "features");
    assert_eq!(view["definition"]["variants"][0][1]["value"], "former");
    assert_eq!(view["definition"]["variants"][1][1]["value"], "text");
    let versions = house.app.features.load().all_versions();
    assert_eq!(view["definition"]["features"]["text"], versions.text);

    // It goes on after a restart, with the former view at hand.
    let house = again(house.close().await).await;
    to_its_end(&house, &name, [1.0, 0.2], "shipped").await;
    let path = format!("/reports/{name}/report.md");
    let mut report = String::new();
    for _ in 0..100 {
        report = house.text(&path).await;
        if report.contains("It is over") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for needed in [
        "routing by the former look at prompts",
        &format!("{:08x}", versions.text),
    ] {
        assert!(report.contains(needed), "{needed} in {report}");
    }

    // Taken back: routing goes by what was known under the former view, after another restart too.
    undo(&house, &name).await;
    let alike = |one: &BTreeMap<String, f64>, other: &BTreeMap<String, f64>| {
        let all = one.iter().map(|(model, chance)| (chance - other[model]).abs());
        all.fold(0.0, f64::max) < 0.1
    };
    let after = both(&house).await;
    assert!(
        alike(&before[0], &after[0]) && alike(&before[1], &after[1]),
        "{before:?} {after:?}"
    );
    let house = again(house.close().await).await;
    let after = both(&house).await;
    assert!(
        alike(&before[0], &after[0]) && alike(&before[1], &after[1]),
        "{before:?} {after:?}"
    );
    house.close().await;
}
