//! The house rules as an ordinary test: imports go down only, effects stay in the shell, and the documents
//! name paths that exist. `docs/architecture.md` says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Types that every room may use; each may import those before it.
const SHARED: [&str; 7] = [
    "units",
    "arm",
    "request",
    "completion",
    "failure",
    "context",
    "content",
];

/// Pure rooms beside the shared types; they never import one another.
const PURE: [&str; 7] = [
    "features",
    "pricing",
    "telemetry",
    "policy",
    "candidates",
    "feedback",
    "evaluation",
];

/// Composers and shell rooms, each with the rooms it may import beside [`SHARED`] and itself.
/// `*` stands for every pure room and `routing`.
const ABOVE: [(&str, &[&str]); 17] = [
    (
        "routing",
        &[
            "features",
            "pricing",
            "telemetry",
            "policy",
            "candidates",
            "feedback",
            "evaluation",
        ],
    ),
    ("clock", &[]),
    ("config", &["*"]),
    ("cache", &["*", "config"]),
    ("embedding", &["features", "clock"]),
    ("providers", &["clock"]),
    ("dispatch", &["providers", "clock", "telemetry", "pricing"]),
    ("store", &["*", "clock"]),
    ("learner", &["*", "store", "clock", "embedding"]),
    ("replay", &["*", "clock", "embedding", "learner"]),
    (
        "train",
        &["*", "clock", "embedding", "replay", "store", "learner"],
    ),
    ("hindsight", &["*", "learner", "store"]),
    ("experiments", &["*", "clock", "config", "store"]),
    ("report", &["*", "clock", "config", "store", "experiments"]),
    ("demo", &["providers", "config", "clock"]),
    (
        "server",
        &[
            "*",
            "cache",
            "clock",
            "config",
            "providers",
            "dispatch",
            "store",
            "learner",
            "experiments",
            "report",
            // The handlers take their parts from the composition, which in turn builds the clients' keys.
            "app",
        ],
    ),
    (
        "app",
        &[
            "*",
            "cache",
            "clock",
            "config",
            "embedding",
            "providers",
            "dispatch",
            "store",
            "learner",
            "replay",
            "train",
            "experiments",
            "report",
            "demo",
            "server",
        ],
    ),
];

/// The list of rooms, and the program on top of them all.
const PROGRAM: [&str; 3] = ["lib", "main", "commands"];

/// What the pure ring must not name: effects.
const EFFECTS: [&str; 10] = [
    "tokio::",
    "axum::",
    "reqwest::",
    "hyper::",
    "rusqlite::",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "Instant::now",
];

/// Crates that belong to a few rooms only.
const CONFINED: [(&str, &[&str]); 3] = [
    ("axum::", &["server", "app"]),
    ("rusqlite::", &["store"]),
    ("reqwest::", &["providers", "app", "demo", "config"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// Every source file with the room it belongs to and its code: no comments, no tests.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    let mut found = Vec::new();
    files(&src, ".rs", &mut found);
    found.retain(|path| !path.file_stem().unwrap().to_string_lossy().ends_with("tests"));
    found.sort();
    let mut sources = Vec::new();
    for path in found {
        let inside = path.strip_prefix(&src).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let room = room.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        sources.push((room, path, code.join("\n")));
    }
    sources
}

fn imports(code: &str) -> BTreeSet<String> {
    let after = code.split("crate::").skip(1);
    after
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        })
        .collect()
}

fn allowed(room: &str) -> BTreeSet<&'static str> {
    if let Some(at) = SHARED.iter().position(|name| *name == room) {
        return SHARED[..at].iter().copied().collect();
    }
    let mut rooms: BTreeSet<&str> = SHARED.into_iter().collect();
    if let Some((_, more)) = ABOVE.iter().find(|(name, _)| *name == room) {
        for name in *more {
            if *name == "*" {
                rooms.extend(PURE);
                rooms.insert("routing");
            } else {
                rooms.insert(name);
            }
        }
    }
    rooms
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        if PROGRAM.contains(&room.as_str()) {
            continue;
        }
        let allowed = allowed(&room);
        for import in imports(&code) {
            if import != room && !allowed.contains(import.as_str()) {
                wrong.push(format!("{} imports crate::{import}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports against the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_room_has_a_place_in_the_table() {
    let known: BTreeSet<&str> = SHARED
        .into_iter()
        .chain(PURE)
        .chain(ABOVE.map(|(name, _)| name))
        .chain(PROGRAM)
        .collect();
    let rooms: BTreeSet<String> = sources().into_iter().map(|(room, ..)| room).collect();
    let found: BTreeSet<&str> = rooms.iter().map(String::as_str).collect();
    assert_eq!(found, known);
}

#[test]
fn the_pure_ring_has_no_effects() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        if SHARED.contains(&room.as_str()) || PURE.contains(&room.as_str()) || room == "routing" {
            let named = EFFECTS.iter().filter(|effect| code.contains(*effect));
            wrong.extend(named.map(|effect| format!("{} names {effect}", path.display())));
        }
    }
    assert!(
        wrong.is_empty(),
        "effects in the pure ring:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn http_and_sql_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        for (name, homes) in CONFINED {
            if code.contains(name) && !homes.contains(&room.as_str()) && !PROGRAM.contains(&room.as_str()) {
                wrong.push(format!("{} names {name}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "crates outside their rooms:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn documents_name_paths_that_exist() {
    let root = root();
    let mut documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .to_vec();
    files(&root.join("docs"), ".md", &mut documents);
    let tops = [
        "src/",
        "docs/",
        "tests/",
        "models/",
        "benches/",
        "experiments/",
        "scripts/",
        "crates/",
        ".ci/",
    ];
    let mut wrong = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = tops.iter().any(|top| quoted.starts_with(top))
                && !quoted.contains([' ', '*', '<', '{', '\n']);
            if is_path && !root.join(quoted).exists() {
                wrong.push(format!("{} names {quoted}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "paths that do not exist:\n{}", wrong.join("\n"));
}
