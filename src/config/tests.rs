use super::*;
use crate::arm::Modality;
use crate::units::{UnixMs, Usd};

/// Every key is set, nothing else is.
fn keys(name: &str) -> Option<String> {
    name.ends_with("_API_KEY").then(|| format!("secret-{name}"))
}

fn nothing(_: &str) -> Option<String> {
    None
}

fn problems_of(text: &str) -> Vec<String> {
    let problems = parse(text, Source::Text, &keys).unwrap_err();
    problems.0.iter().map(Problem::to_string).collect()
}

/// A configuration with every part, rarer keys included.
const WHOLE: &str = r#"
[server]
listen = "127.0.0.1:8080"
data_dir = "data"
api_keys_env = ["POINTSMAN_API_KEY"]

[[providers]]
name = "mistral"
kind = "openai"
base_url = "https://api.mistral.ai/v1/"
api_key_env = "MISTRAL_API_KEY"

[[providers]]
name = "local"
kind = "openai"
base_url = "http://127.0.0.1:11434/v1"

[[models]]
id = "mistral/mistral-small"
upstream = "mistral-small-latest"
context_window = 128000
max_output_tokens = 8192
modalities = ["text", "image"]
tools = true
structured_output = true
[models.price]
input_per_mtok = 0.10
cached_input_per_mtok = 0.01
cache_write_per_mtok = 0.10
output_per_mtok = 0.30
request_fee_usd = 0.0
tiers = [{ above_tokens = 200000, input_per_mtok = 0.2, output_per_mtok = 0.6 }]
windows = [{ timezone = "Asia/Shanghai", days = ["mon","tue","wed","thu","fri"], start = "09:00", end = "12:00", multiplier = 2.0 }]

[[models]]
id = "local/llama"
context_window = 8192

[[routes]]
name = "auto"
models = ["mistral/mistral-small", "local/llama"]
objective = "cheapest_capable"
quality_margin = 0.02
confidence = 0.9
max_cost_usd = 0.05
ttft_budget_ms = 2000
deadline_ms = 60000
hedge = { enabled = true, max_rate = 0.05 }
budget = { usd = 50.0, period = "day", on_exhausted = "cheapest" }
fallbacks = ["openai/gpt-4o-mini"]
rules = [{ when = { modality = "image" }, models = ["mistral/mistral-small"] }]

[[experiments]]
name = "small-vs-llama"
route = "auto"
category = "policy"
arms = { treatment = "local/llama", control = "mistral/mistral-small" }
metric = "quality"
hypothesis = "non_inferior"
margin = 0.02
split = "adaptive"
sticky_by = "user"
"#;

#[test]
fn a_whole_file_is_read() {
    let config = parse(WHOLE, Source::Text, &keys).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.server.api_keys.len(), 1);
    let names: Vec<&str> = config
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    assert_eq!(names, ["mistral", "local", "openai"], "openai needs no block");
    assert_eq!(config.providers[0].base_url, "https://api.mistral.ai/v1");
    assert!(config.providers[1].api_keys.is_empty());
    let small = config.model(&ArmId::new("mistral/mistral-small")).unwrap();
    assert_eq!(&*small.arm.upstream, "mistral-small-latest");
    assert!(small.arm.modalities.contains(Modality::Image));
    let llama = config.model(&ArmId::new("local/llama")).unwrap();
    assert_eq!(&*llama.arm.upstream, "llama");
    assert_eq!(llama.price_source, PriceSource::Unknown);
    let mini = config.model(&ArmId::new("openai/gpt-4o-mini")).unwrap();
    assert_eq!(mini.price_source, PriceSource::Catalogue);
    let route = config.route("auto").unwrap();
    assert_eq!(route.max_cost, Usd::from_dollars(0.05));
    assert_eq!(route.rules.len(), 1);
    assert_eq!(
        route.stream_deadline, route.deadline,
        "a deadline that is set holds for all"
    );
    assert_eq!(config.budgets.len(), 1);
    assert_eq!(config.experiments[0].arms[0].0, "control");
    assert!(
        config
            .warnings
            .iter()
            .any(|warning| warning.message.contains("no known price"))
    );
    // 10:00 on a Friday in Beijing: twice $0.10.
    let peak = UnixMs(1_793_325_600_000);
    let tariff = config.prices.at(&small.arm.id, peak).unwrap();
    assert!((tariff.dollars_per_token(0).0 - 2e-7).abs() < 1e-15);
}

#[test]
fn an_experiment_may_not_take_the_directory_of_another_report() {
    for name in ["routing", "replay"] {
        let problems = problems_of(&WHOLE.replace("small-vs-llama", name));
        assert!(
            problems
                .iter()
                .any(|told| told.contains("experiments[0].name") && told.contains(name)),
            "{problems:?}"
        );
    }
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let problems = problems_of(
        r#"
[server]
listen = "localhost"
[[providers]]
name = "a"
kind = "opnai"
base_url = "https://a"
[[models]]
id = "a/m"
context_window = -5
modalities = ["text", "smell"]
colour = "red"
[models.price]
input_per_mtok = -1
windows = [{ timezone = "Mars/Olympus", start = "25:00", end = "26:00", multiplier = 2 }]
[[routes]]
name = "auto"
models = ["a/m", "a/m", "openai/gpt-4o-minu"]
objectve = "max_quality"
deadline_ms = "soon"
budget = { usd = 0, period = "week" }
"#,
    );
    let text = problems.join("\n");
    for expected in [
        "server.listen (line 3)",
        "providers[0].kind (line 6): is \"opnai\", but must be one of openai, anthropic, gemini, simulated; did you mean \"openai\"?",
        "models[0].context_window (line 10): must be between 1 and 4294967295, not -5",
        "models[0].modalities[1] (line 11): is \"smell\"",
        "models[0].colour (line 12): is not a known key",
        "models[0].price.input_per_mtok (line 14): must be 0 or more, not -1",
        "models[0].price.windows[0].timezone (line 15): \"Mars/Olympus\" is no time zone",
        "models[0].price.windows[0].start (line 15): \"25:00\" is no time of day",
        "routes[0].models[1] (line 18): \"a/m\" is in the list twice",
        "routes[0].models[2] (line 18): \"openai/gpt-4o-minu\" is not a model of this file, nor of the catalogue; did you mean \"openai/gpt-4o-mini\"?",
        "routes[0].objectve (line 19): is not a known key; did you mean `objective`?",
        "routes[0].deadline_ms (line 20): must be a whole number, not a string",
        "routes[0].budget.usd (line 21): must be more than 0",
        "routes[0].budget.period (line 21): is \"week\"",
    ] {
        assert!(text.contains(expected), "missing: {expected}\nin:\n{text}");
    }
}

#[test]
fn broken_toml_names_the_line() {
    let problems = problems_of("[server]\nlisten = \"127.0.0.1:80\n");
    assert!(problems[0].starts_with("line 2: not valid TOML"), "{problems:?}");
}

#[test]
fn overlapping_tiers_and_windows_and_impossible_times_are_refused() {
    let with = |price: &str| {
        problems_of(&format!(
            "[[models]]\nid = \"openai/x\"\ncontext_window = 10\n[models.price]\ninput_per_mtok = 1\noutput_per_mtok = 1\n{price}\n"
        ))
        .join("\n")
    };
    let tiers = with("tiers = [{ above_tokens = 5, input_per_mtok = 2 }, { above_tokens = 5 }]");
    assert!(
        tiers.contains("models[0].price.tiers[1].above_tokens (line 7): overlaps another tier"),
        "{tiers}"
    );
    let windows = with(
        "windows = [{ start = \"09:00\", end = \"12:00\", multiplier = 2 }, { start = \"11:00\", end = \"13:00\", multiplier = 2 }]",
    );
    assert!(
        windows.contains("models[0].price.windows[1] (line 7): overlaps another window"),
        "{windows}"
    );
    let empty = with("windows = [{ start = \"09:00\", end = \"09:00\", multiplier = 2 }]");
    assert!(empty.contains("starts when it ends"), "{empty}");
}

#[test]
fn a_public_address_needs_client_keys() {
    let text = "[server]\nlisten = \"0.0.0.0:8080\"\n[[models]]\nid = \"openai/gpt-4o-mini\"\n";
    let only_provider = |name: &str| (name == "OPENAI_API_KEY").then(|| "k".to_owned());
    let problems = parse(text, Source::Text, &only_provider).unwrap_err();
    assert!(
        problems
            .to_string()
            .contains("no client key is set; set POINTSMAN_API_KEY"),
        "{problems}"
    );
    assert!(parse(text, Source::Text, &keys).is_ok());
}

#[test]
fn the_port_comes_from_the_environment() {
    let with_port = |port: &'static str| {
        move |name: &str| match name {
            "PORT" => Some(port.to_owned()),
            other => keys(other),
        }
    };
    let config = load(None, &with_port("9999")).unwrap();
    assert_eq!(config.server.listen.port(), 9999);
    let problems = load(None, &with_port("http")).unwrap_err();
    assert!(problems.to_string().contains("PORT: is \"http\""), "{problems}");
}

#[test]
fn without_a_file_the_keys_decide() {
    let only_openai = |name: &str| match name {
        "OPENAI_API_KEY" => Some("k".to_owned()),
        "OPENAI_BASE_URL" => Some("http://127.0.0.1:9/v1/".to_owned()),
        _ => None,
    };
    let config = load(None, &only_openai).unwrap();
    assert_eq!(config.providers.len(), 1);
    assert_eq!(config.providers[0].base_url, "http://127.0.0.1:9/v1");
    let route = &config.routes[0];
    assert_eq!(route.name, "auto");
    assert!(route.stream_deadline > route.deadline);
    let problem = load(None, &nothing).unwrap_err().to_string();
    assert_eq!(problem.lines().count(), 1);
    for word in ["OPENAI_API_KEY", "GOOGLE_API_KEY", "OPENROUTER_API_KEY", "--demo"] {
        assert!(problem.contains(word), "{problem}");
    }
}

#[test]
fn a_missing_key_names_its_variable() {
    let text = "[[models]]\nid = \"mistral/x\"\ncontext_window = 10\n[[routes]]\nname = \"auto\"\nmodels = [\"mistral/x\"]\n";
    let problems = parse(text, Source::Text, &nothing).unwrap_err().to_string();
    assert!(
        problems.contains("needs the key of mistral; set MISTRAL_API_KEY"),
        "{problems}"
    );
}

#[test]
fn secrets_are_not_shown() {
    let config = parse(WHOLE, Source::Text, &keys).unwrap();
    assert!(!format!("{config:?}").contains("secret-"));
}

#[test]
fn a_file_that_is_not_there_is_one_sentence() {
    let problem = load(Some(Path::new("/nowhere/pointsman.toml")), &keys).unwrap_err();
    assert!(
        problem
            .to_string()
            .contains("cannot read /nowhere/pointsman.toml")
    );
}

#[test]
fn check_prints_the_resolved_configuration_and_exits_2_on_problems() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pointsman.toml");
    let check = |text: &str, without_keys| {
        std::fs::write(&file, text).unwrap();
        let args = check::CheckArgs {
            config: Some(file.clone()),
            without_keys,
        };
        let mut out = Vec::new();
        let status = check::run(&args, &nothing, UnixMs(0), &mut out).unwrap();
        (status, String::from_utf8(out).unwrap())
    };
    let (status, text) = check(WHOLE, true);
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains("mistral/mistral-small") && text.contains("rule: modality = image"),
        "{text}"
    );
    assert_eq!(check(WHOLE, false).0, 2, "the keys are not set");
    let (status, text) = check("[[routes]]\n", true);
    assert_eq!(status, 2);
    assert!(text.starts_with("2 problems:"), "{text}");
}

#[test]
fn the_shipped_catalogue_keeps_its_own_rules() {
    let catalogue = Catalogue::shipped().unwrap_or_else(|problems| panic!("{problems}"));
    for entry in catalogue.entries() {
        assert!(!entry.prices.is_empty(), "{} has no price", entry.id);
        assert!(entry.facts.context_window.is_some(), "{} has no window", entry.id);
        assert!(entry.source.starts_with("https://"), "{}", entry.source);
        assert!(
            entry.checked.parse::<jiff::civil::Date>().is_ok(),
            "{}",
            entry.checked
        );
        let (provider, _) = entry.id.split_once('/').unwrap();
        assert!(providers::KnownProvider::named(provider).is_some(), "{provider}");
    }
    for known in &providers::KNOWN {
        let prefix = format!("{}/", known.name);
        let defaults = catalogue.entries().iter().filter(|entry| entry.default);
        assert!(
            defaults.clone().any(|entry| entry.id.starts_with(&prefix)),
            "{}",
            known.name
        );
    }
}

/// $0.15 a million off-peak, $0.30 in Beijing's working mornings and afternoons, and never at weekends.
#[test]
fn deepseek_costs_twice_as_much_in_beijings_working_hours() {
    let catalogue = Catalogue::shipped().unwrap();
    let (_, price) = &catalogue.get("deepseek/deepseek-flash").unwrap().prices[0];
    let dollars = |moment: &str| {
        let at = moment.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let (input, cached, output) = price.at(UnixMs(at)).dollars_per_token(0);
        [input, cached, output].map(|dollars| (dollars * 1e9).round() / 1e3)
    };
    assert_eq!(dollars("2026-10-30T00:59:59Z"), [0.15, 0.003, 0.6]);
    assert_eq!(dollars("2026-10-30T01:00:00Z"), [0.3, 0.006, 1.2]);
    assert_eq!(dollars("2026-10-30T04:00:00Z"), [0.15, 0.003, 0.6]);
    assert_eq!(dollars("2026-10-30T06:00:00Z"), [0.3, 0.006, 1.2]);
    assert_eq!(dollars("2026-10-30T10:00:00Z"), [0.15, 0.003, 0.6]);
    assert_eq!(dollars("2026-10-31T02:00:00Z"), [0.15, 0.003, 0.6], "Saturday");
}

/// The introductory price of Gemini 3.8 Flash ends with the year.
#[test]
fn a_published_price_change_holds_from_its_day_on() {
    let only_google = |name: &str| (name == "GEMINI_API_KEY").then(|| "k".to_owned());
    let text = "[[routes]]\nname = \"auto\"\nmodels = [\"google/gemini-3.8-flash\"]\n";
    let config = parse(text, Source::Text, &only_google).unwrap();
    let input = |moment: &str| {
        let at = UnixMs(moment.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let tariff = config
            .prices
            .at(&ArmId::new("google/gemini-3.8-flash"), at)
            .unwrap();
        tariff.price().rates(0).input.dollars()
    };
    assert!((input("2026-12-31T23:59:59Z") - 0.75).abs() < 1e-12);
    assert!((input("2027-01-01T00:00:00Z") - 1.5).abs() < 1e-12);
}

/// A retired model whose name its maker goes on answering costs what its successor costs.
#[test]
fn a_retired_model_is_billed_as_what_answers_for_it() {
    let catalogue = Catalogue::shipped().unwrap();
    let output = |id: &str, moment: &str| {
        let at = UnixMs(moment.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let dated = &catalogue.get(id).unwrap().prices;
        let (_, price) = dated.iter().rfind(|(from, _)| *from <= at).unwrap();
        price.rates(300_000).output.dollars()
    };
    for (retired, before, successor) in [
        ("google/gemini-2.5-pro", 15.0, "google/gemini-3.8-flash"),
        ("google/gemini-2.5-flash", 2.5, "google/gemini-3.5-flash-lite"),
    ] {
        assert!((output(retired, "2026-11-30T23:59:59Z") - before).abs() < 1e-12);
        for moment in ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"] {
            assert!((output(retired, moment) - output(successor, moment)).abs() < 1e-12);
        }
    }
}

#[test]
fn every_shipped_example_is_sound() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut examples = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config =
            load(Some(&path), &keys).unwrap_or_else(|problems| panic!("{}:\n{problems}", path.display()));
        assert!(
            config.warnings.is_empty(),
            "{}: {:?}",
            path.display(),
            config.warnings
        );
        examples += 1;
    }
    assert!(examples >= 3);
}

#[test]
fn the_support_bot_routes_as_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/support-bot.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() <= 35);
    let config = load(Some(&path), &keys).unwrap();
    let route = config.route("support").unwrap();
    let seen = |category, modalities| crate::candidates::Seen {
        modalities,
        category,
        input_tokens: 100,
        tools: false,
        structured_output: false,
        code: false,
        language: None,
        headers: &[],
        tags: &[],
    };
    let text_only = crate::arm::Modalities::TEXT;
    let picks = |category, modalities| {
        crate::candidates::Rule::first(&route.rules, &seen(category, modalities))
            .map(|rule| rule.models[0].to_string())
    };
    assert_eq!(
        picks(Some("support_faq"), text_only).as_deref(),
        Some("mistral/mistral-small")
    );
    assert_eq!(
        picks(Some("policy"), text_only).as_deref(),
        Some("anthropic/claude-haiku")
    );
    let screenshot = text_only.with(Modality::Image);
    assert_eq!(
        picks(Some("support_faq"), screenshot).as_deref(),
        Some("google/gemini-pro")
    );
    assert_eq!(picks(None, text_only), None, "the policy decides");
    let fallbacks: Vec<&str> = route
        .fallbacks
        .as_ref()
        .unwrap()
        .iter()
        .map(ArmId::as_str)
        .collect();
    assert_eq!(fallbacks, ["openai/gpt-4o-mini", "qwen/qwen-2.5-72b"]);
    assert_eq!(config.providers.len(), 5);
}

#[test]
fn a_cache_is_read_with_its_defaults_and_its_mistakes_are_told() {
    let with = |cache: &str| {
        format!(
            "[[providers]]\nname = \"p\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
             [[models]]\nid = \"p/m\"\ncontext_window = 1000\n\
             [[routes]]\nname = \"auto\"\nmodels = [\"p/m\"]\ncache = {cache}\n"
        )
    };
    let read = |cache: &str| super::parse(&with(cache), super::Source::Text, &|_| None);
    let rule = read("{ semantic = { categories = { maths = 1.0 } } }")
        .unwrap()
        .routes[0]
        .cache
        .clone()
        .unwrap();
    assert_eq!(
        (rule.ttl.as_secs(), rule.max_bytes, rule.shared),
        (300, 64 << 20, false)
    );
    let semantic = rule.semantic.unwrap();
    assert_eq!(
        (semantic.threshold("maths"), semantic.threshold("chat")),
        (1.0, 0.97)
    );
    assert!(
        read("{}").unwrap().routes[0]
            .cache
            .as_ref()
            .unwrap()
            .semantic
            .is_none()
    );
    for (cache, says) in [
        ("{ ttl = 5 }", "ttl"),
        ("{ ttl_seconds = 0 }", "ttl_seconds"),
        ("{ semantic = { threshold = 0.2 } }", "threshold"),
        ("{ semantic = { categories = { math = 0.9 } } }", "math"),
    ] {
        let problems = read(cache).unwrap_err().to_string();
        assert!(problems.contains(says), "{cache}: {problems}");
    }
}
