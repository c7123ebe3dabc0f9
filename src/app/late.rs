//! An embedding that did not come in time for its decision: it is finished in the background and logged beside the
//! decision, so that the transformer's view learns from every prompt that was embedded.

use std::sync::{Arc, Mutex, PoisonError};

use crate::learner::encode_late;
use crate::store::{LateRow, Store};

/// Where the embedding and the id of its decision meet; either may come first.
#[derive(Clone, Default)]
pub struct Late(Arc<Mutex<Meeting>>);

#[derive(Default)]
enum Meeting {
    /// Neither is there.
    #[default]
    Empty,
    /// The embedding's features, with the version of their projection.
    Features(u32, Vec<u8>),
    /// The decision, and where it was logged.
    Decision(Arc<str>, Store),
    /// Both were.
    Over,
}

impl Late {
    /// The embedding is there.
    pub fn came(&self, version: u32, features: &[f32]) {
        let features = encode_late(features);
        let mut meeting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *meeting, Meeting::Over) {
            Meeting::Decision(id, store) => log(&store, id, version, features),
            Meeting::Empty => *meeting = Meeting::Features(version, features),
            Meeting::Features(..) | Meeting::Over => {}
        }
    }

    /// The decision was logged.
    pub fn decided(&self, id: &Arc<str>, store: &Store) {
        let mut meeting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *meeting, Meeting::Over) {
            Meeting::Features(version, features) => log(store, Arc::clone(id), version, features),
            Meeting::Empty => *meeting = Meeting::Decision(Arc::clone(id), store.clone()),
            Meeting::Decision(..) | Meeting::Over => {}
        }
    }
}

fn log(store: &Store, decision: Arc<str>, version: u32, features: Vec<u8>) {
    // Dropped where too much waits to be written: the store counts it.
    store.log_late_embedding(LateRow {
        decision,
        version,
        features,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::decision;
    use crate::units::UnixMs;

    #[tokio::test]
    async fn whichever_comes_first_one_row_is_logged_beside_the_decision() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), UnixMs(1)).unwrap();
        let (first, second): (Arc<str>, Arc<str>) = (Arc::from("first"), Arc::from("second"));
        for id in [&first, &second] {
            assert!(store.log_decision(decision(id)));
        }
        let late = Late::default();
        late.came(7, &[1.0, -2.5]);
        late.decided(&first, &store);
        late.decided(&first, &store);
        let late = Late::default();
        late.decided(&second, &store);
        late.came(7, &[3.0]);
        late.came(7, &[4.0]);
        // Its decision was never logged.
        let lost = Late::default();
        lost.came(7, &[9.0]);
        lost.decided(&Arc::from("nowhere"), &store);
        store.flush().await.unwrap();
        let found = store.reader().late_since(0, 10).unwrap();
        let seen: Vec<(&str, u32, &[u8])> = found
            .iter()
            .map(|row| (&*row.late.decision, row.late.version, &*row.late.features))
            .collect();
        let bytes = |floats: &[f32]| encode_late(floats);
        assert_eq!(
            seen,
            [
                ("first", 7, &*bytes(&[1.0, -2.5])),
                ("second", 7, &*bytes(&[3.0]))
            ]
        );
    }
}
