//! Tensors and their types.

use ort_sys::ONNXTensorElementDataType as ElementType;
use rten::{DataType, Value, ValueOrView, ValueType, ValueView};
use rten_tensor::prelude::*;

use crate::fault::Fault;

/// Element type and shape; an axis of unknown length is -1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) element: ElementType,
    pub(crate) shape: Vec<i64>,
}

/// The type of a value. Here always a tensor.
#[derive(Clone, Debug)]
pub(crate) struct TypeInfo {
    pub(crate) tensor: TensorInfo,
}

/// A dense tensor that owns its elements, row by row.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    info: TensorInfo,
    elements: Elements,
}

/// Elements of a tensor.
#[derive(Clone, Debug)]
enum Elements {
    F32(Vec<f32>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

impl TensorInfo {
    /// Number of elements.
    pub(crate) fn count(&self) -> Result<usize, Fault> {
        self.lengths()?
            .iter()
            .try_fold(1_usize, |count, length| count.checked_mul(*length))
            .filter(|count| *count <= isize::MAX as usize / 8)
            .ok_or_else(|| Fault::argument(format!("a tensor of shape {:?} is too large", self.shape)))
    }

    fn lengths(&self) -> Result<Vec<usize>, Fault> {
        let known = self.shape.iter().map(|length| usize::try_from(*length));
        known
            .collect::<Result<_, _>>()
            .map_err(|_| Fault::argument(format!("{:?} is not a shape", self.shape)))
    }
}

impl Tensor {
    /// A tensor of zeros.
    pub(crate) fn zeros(info: TensorInfo) -> Result<Self, Fault> {
        let count = info.count()?;
        let elements = match info.element {
            ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT => Elements::F32(vec![0.0; count]),
            ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 => Elements::I32(vec![0; count]),
            ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => Elements::I64(vec![0; count]),
            other => return Err(Fault::unsupported(format!("tensors of element type {other:?}"))),
        };
        Ok(Self { info, elements })
    }

    /// A tensor of the elements in `bytes`, in the machine's byte order.
    pub(crate) fn from_bytes(info: TensorInfo, bytes: &[u8]) -> Result<Self, Fault> {
        let mut tensor = Self::zeros(info)?;
        match &mut tensor.elements {
            Elements::F32(elements) => fill(elements, bytes, f32::from_ne_bytes)?,
            Elements::I32(elements) => fill(elements, bytes, i32::from_ne_bytes)?,
            Elements::I64(elements) => fill(elements, bytes, i64::from_ne_bytes)?,
        }
        Ok(tensor)
    }

    /// What the runtime computed.
    pub(crate) fn from_value(value: Value) -> Result<Self, Fault> {
        let shape = |lengths: &[usize]| lengths.iter().map(|length| *length as i64).collect();
        match value {
            Value::FloatTensor(tensor) => Ok(Self {
                info: TensorInfo {
                    element: ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                    shape: shape(tensor.shape()),
                },
                elements: Elements::F32(tensor.into_data()),
            }),
            Value::Int32Tensor(tensor) => Ok(Self {
                info: TensorInfo {
                    element: ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
                    shape: shape(tensor.shape()),
                },
                elements: Elements::I32(tensor.into_data()),
            }),
            other => Err(Fault::unsupported(format!(
                "an output of type {:?}",
                other.dtype()
            ))),
        }
    }

    /// As an input of the runtime, which computes in 32-bit integers.
    pub(crate) fn to_value(&self) -> Result<ValueOrView<'_>, Fault> {
        let shape = self.info.lengths()?;
        let failed = |cause: &dyn std::fmt::Display| Fault::argument(cause.to_string());
        match &self.elements {
            Elements::F32(elements) => Ok(ValueView::from_shape(&shape, elements)
                .map_err(|e| failed(&e))?
                .into()),
            Elements::I32(elements) => Ok(ValueView::from_shape(&shape, elements)
                .map_err(|e| failed(&e))?
                .into()),
            Elements::I64(elements) => {
                let narrow: Vec<i32> = elements
                    .iter()
                    .map(|element| i32::try_from(*element))
                    .collect::<Result<_, _>>()
                    .map_err(|_| Fault::argument("an integer beyond 32 bits"))?;
                Ok(Value::from_shape(&shape, narrow).map_err(|e| failed(&e))?.into())
            }
        }
    }

    pub(crate) fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// The address of the first element, for the caller to read and write [`TensorInfo::count`] elements.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        match &mut self.elements {
            Elements::F32(elements) => elements.as_mut_ptr().cast(),
            Elements::I32(elements) => elements.as_mut_ptr().cast(),
            Elements::I64(elements) => elements.as_mut_ptr().cast(),
        }
    }
}

/// The element type that a graph's input or output is announced with. The runtime narrows ONNX's 64-bit integers to
/// 32 bits and forgets that it did: inputs are announced as the former, which is what models declare, and both are
/// accepted.
pub(crate) fn announced(value: Option<ValueType>, input: bool) -> ElementType {
    match value {
        Some(ValueType::Tensor(DataType::Int32)) if input => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Some(ValueType::Tensor(DataType::Int32)) => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        Some(ValueType::Tensor(DataType::UInt8)) => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        Some(ValueType::Tensor(DataType::Int8)) => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        Some(ValueType::Tensor(DataType::Float)) => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        _ => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED,
    }
}

fn fill<const N: usize, T>(elements: &mut [T], bytes: &[u8], read: fn([u8; N]) -> T) -> Result<(), Fault> {
    let (chunks, _) = bytes.as_chunks::<N>();
    if chunks.len() < elements.len() {
        return Err(Fault::argument(format!(
            "{} bytes for {} elements of {N} bytes",
            bytes.len(),
            elements.len()
        )));
    }
    for (element, chunk) in elements.iter_mut().zip(chunks) {
        *element = read(*chunk);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(element: ElementType, shape: &[i64]) -> TensorInfo {
        TensorInfo {
            element,
            shape: shape.to_vec(),
        }
    }

    const I64: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

    #[test]
    fn elements_survive_the_way_in_and_out() {
        let bytes: Vec<u8> = [1.5_f32, -2.0]
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();
        let float = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        let tensor = Tensor::from_bytes(info(float, &[2, 1]), &bytes).unwrap();
        let back = Tensor::from_value(tensor.to_value().unwrap().into_owned()).unwrap();
        assert_eq!(back.info(), tensor.info());
        assert!(matches!(back.elements, Elements::F32(values) if values == [1.5, -2.0]));
    }

    #[test]
    fn integers_that_do_not_fit_are_refused() {
        let fits = 7_i64.to_ne_bytes();
        let large = (1_i64 << 40).to_ne_bytes();
        assert!(
            Tensor::from_bytes(info(I64, &[1]), &fits)
                .unwrap()
                .to_value()
                .is_ok()
        );
        assert!(
            Tensor::from_bytes(info(I64, &[1]), &large)
                .unwrap()
                .to_value()
                .is_err()
        );
    }

    #[test]
    fn impossible_shapes_and_types_are_refused() {
        assert!(Tensor::zeros(info(I64, &[-1])).is_err());
        assert!(Tensor::zeros(info(I64, &[i64::MAX, i64::MAX])).is_err());
        assert!(Tensor::zeros(info(ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &[1])).is_err());
        assert!(Tensor::from_bytes(info(I64, &[2]), &[0; 15]).is_err());
        assert_eq!(info(I64, &[]).count().unwrap(), 1, "a scalar");
        assert_eq!(info(I64, &[3, 0]).count().unwrap(), 0);
    }
}
