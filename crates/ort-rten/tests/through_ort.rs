//! What `ort` sees: real sessions on small models and on the shipped one.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;
use std::sync::LazyLock;

use ort::environment::Environment;
use ort::session::Session;
use ort::value::Tensor;

mod onnx;

fn session(model: &[u8]) -> ort::Result<Session> {
    static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
        ort::set_api(ort_rten::api());
        ort::init().build().unwrap()
    });
    Session::builder(&ENVIRONMENT)?
        .with_intra_threads(1)?
        .commit_from_memory(model)
}

fn shipped() -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-minilm-l6-v2-exit3-q8/model.onnx");
    std::fs::read(path).unwrap()
}

fn double(session: &mut Session, x: Vec<f32>, ids: Vec<i64>) -> ort::Result<(Vec<f32>, Vec<i32>)> {
    let inputs = ort::inputs![
        "x" => Tensor::from_array(([x.len()], x))?,
        "ids" => Tensor::from_array(([ids.len()], ids))?,
    ];
    let outputs = session.run(inputs)?;
    let (_, sum) = outputs["sum"].try_extract_tensor::<f32>()?;
    let (_, wide) = outputs["wide"].try_extract_tensor::<i32>()?;
    Ok((sum.to_vec(), wide.to_vec()))
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_small_model_computes() {
    let mut session = session(&onnx::doubling_model()).unwrap();
    let names: Vec<_> = session
        .inputs()
        .iter()
        .map(|input| input.name().to_owned())
        .collect();
    assert_eq!(names, ["x", "ids"]);
    let (sum, wide) = double(&mut session, vec![1.0, 2.5], vec![-3, 4, 5]).unwrap();
    assert_eq!((sum, wide), (vec![2.0, 5.0], vec![-6, 8, 10]));
    let (sum, wide) = double(&mut session, vec![0.5], vec![7]).unwrap();
    assert_eq!(
        (sum, wide),
        (vec![1.0], vec![14]),
        "another length, the same session"
    );
}

#[test]
fn errors_are_errors_and_the_session_lives_on() {
    let mut square = session(&onnx::square_model()).unwrap();
    let wrong = Tensor::from_array(([2, 3], vec![1.0_f32; 6])).unwrap();
    let message = square.run(ort::inputs!["x" => wrong]).unwrap_err().to_string();
    assert!(!message.is_empty());
    let right = Tensor::from_array(([2, 2], vec![1.0_f32, 2.0, 3.0, 4.0])).unwrap();
    let outputs = square.run(ort::inputs!["x" => right]).unwrap();
    assert_eq!(
        outputs["y"].try_extract_tensor::<f32>().unwrap().1,
        [7.0, 10.0, 15.0, 22.0]
    );

    let mut doubling = session(&onnx::doubling_model()).unwrap();
    assert!(
        double(&mut doubling, vec![1.0], vec![1 << 40]).is_err(),
        "an integer beyond 32 bits"
    );
    assert!(double(&mut doubling, vec![1.0], vec![1]).is_ok());
}

#[test]
fn corrupt_models_are_refused() {
    let model = shipped();
    assert!(session(b"").is_err());
    assert!(session(b"not a model").is_err());
    assert!(session(&model[..model.len() / 2]).is_err());
    let mut shuffled = model;
    shuffled[..4096].reverse();
    assert!(session(&shuffled).is_err());
}

#[test]
fn the_shipped_model_is_deterministic_across_threads_and_leaks_nothing() {
    let model = shipped();
    let embed = |session: &mut Session, ids: &[i64]| -> Vec<f32> {
        let tensor = |values: Vec<i64>| Tensor::from_array(([1, values.len()], values)).unwrap();
        let outputs = session
            .run(ort::inputs![
                "input_ids" => tensor(ids.to_vec()),
                "attention_mask" => tensor(vec![1; ids.len()]),
                "token_type_ids" => tensor(vec![0; ids.len()]),
            ])
            .unwrap();
        outputs["last_hidden_state"]
            .try_extract_tensor::<f32>()
            .unwrap()
            .1
            .to_vec()
    };
    let sentence = [101, 7592, 2088, 1010, 2129, 2024, 2017, 102];
    let expected = embed(&mut session(&model).unwrap(), &sentence);
    assert_eq!(expected.len(), sentence.len() * 384);
    assert!(expected.iter().all(|value| value.is_finite()));
    std::thread::scope(|scope| {
        for thread in 0..3_i64 {
            let (model, expected) = (&model, &expected);
            scope.spawn(move || {
                let mut session = session(model).unwrap();
                for round in 0..60 {
                    let length = 2 + (thread + round) as usize % 40;
                    embed(&mut session, &vec![2000 + round; length]);
                }
                assert_eq!(&embed(&mut session, &sentence), expected);
            });
        }
    });
    let mut one = session(&model).unwrap();
    let mut steady = 0;
    for round in 0..900 {
        embed(&mut one, &sentence);
        if round == 300 {
            steady = resident_kib();
        }
    }
    assert!(
        resident_kib() < steady + 4096,
        "600 runs grew memory from {steady} to {} KiB",
        resident_kib()
    );
    drop(one);
    let before = resident_kib();
    for _ in 0..8 {
        drop(session(&model).unwrap());
    }
    assert!(
        resident_kib() < before + 40_000,
        "8 sessions of 18 MB each grew memory from {before} KiB"
    );
}
