//! A loaded model.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueOrView};

use crate::envelope;
use crate::fault::Fault;
use crate::tensor::{Tensor, TensorInfo, announced};

/// How a session is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Threads for one run; 0 leaves the choice to the runtime.
    pub(crate) threads: usize,
}

/// A model ready to run. Immutable, so threads may share it.
pub(crate) struct Session {
    model: Model,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pool: Option<Arc<ThreadPool>>,
}

/// An input or output of the graph.
pub(crate) struct Port {
    pub(crate) name: CString,
    pub(crate) info: TensorInfo,
    node: NodeId,
}

impl Session {
    /// Loads an ONNX model. Weights are laid out for multiplication once, here.
    pub(crate) fn load(model: Vec<u8>, options: &Options) -> Result<Self, Fault> {
        envelope::check(&model)?;
        let mut how = ModelOptions::with_all_ops();
        how.prepack_weights(true);
        let model = how
            .load(model)
            .map_err(|cause| Fault::model(format!("cannot load the model: {cause}")))?;
        let ports = |ids: &[NodeId], input| ids.iter().map(|id| Port::new(&model, *id, input)).collect();
        Ok(Self {
            inputs: ports(model.input_ids(), true),
            outputs: ports(model.output_ids(), false),
            pool: (options.threads > 0).then(|| Arc::new(ThreadPool::with_num_threads(options.threads))),
            model,
        })
    }

    /// Runs the model on named inputs; gives the named outputs in the order asked for.
    pub(crate) fn run(&self, inputs: &[(&CStr, &Tensor)], outputs: &[&CStr]) -> Result<Vec<Tensor>, Fault> {
        let inputs: Vec<(NodeId, ValueOrView<'_>)> = inputs
            .iter()
            .map(|(name, tensor)| Ok((node(&self.inputs, name, "input")?, tensor.to_value()?)))
            .collect::<Result<_, Fault>>()?;
        let outputs: Vec<NodeId> = outputs
            .iter()
            .map(|name| node(&self.outputs, name, "output"))
            .collect::<Result<_, _>>()?;
        let options = RunOptions::default().with_thread_pool(self.pool.clone());
        let values = self
            .model
            .run(inputs, &outputs, Some(options))
            .map_err(|cause| Fault::run(cause.to_string()))?;
        values.into_iter().map(Tensor::from_value).collect()
    }
}

impl Port {
    fn new(model: &Model, node: NodeId, input: bool) -> Self {
        let found = model.node_info(node);
        let name = found.as_ref().and_then(|found| found.name()).unwrap_or_default();
        let shape = found.as_ref().and_then(|found| found.shape()).unwrap_or_default();
        Self {
            name: CString::new(name.replace('\0', "")).unwrap_or_default(),
            info: TensorInfo {
                element: announced(found.and_then(|found| found.dtype()), input),
                shape: shape
                    .into_iter()
                    .map(|length| match length {
                        Dimension::Fixed(length) => length as i64,
                        Dimension::Symbolic(_) => -1,
                    })
                    .collect(),
            },
            node,
        }
    }
}

fn node(ports: &[Port], name: &CStr, kind: &str) -> Result<NodeId, Fault> {
    ports
        .iter()
        .find(|port| port.name.as_c_str() == name)
        .map(|port| port.node)
        .ok_or_else(|| Fault::argument(format!("the model has no {kind} {name:?}")))
}
