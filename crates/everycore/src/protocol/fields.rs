//! Reads JSON objects field by field; whatever is not as it should be says which field it was.

use serde_json::Value;

use super::ProtocolError;

/// One decoded JSON object, read field by field.
pub(super) struct Fields(Value);

impl Fields {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| ProtocolError(format!("no JSON: {error}")))?;
        Ok(Self(value))
    }

    /// `null` and an absent field mean the same.
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, field: &str) -> Result<&str, ProtocolError> {
        self.value(field).and_then(Value::as_str).ok_or_else(|| missing(field, "a text"))
    }

    pub(super) fn number(&self, field: &str) -> Result<u64, ProtocolError> {
        self.value(field).and_then(Value::as_u64).ok_or_else(|| missing(field, "a whole number"))
    }

    pub(super) fn small(&self, field: &str) -> Result<u32, ProtocolError> {
        u32::try_from(self.number(field)?).map_err(|_| missing(field, "a number below 2^32"))
    }

    pub(super) fn signed(&self, field: &str) -> Result<i32, ProtocolError> {
        self.value(field)
            .and_then(Value::as_i64)
            .and_then(|number| i32::try_from(number).ok())
            .ok_or_else(|| missing(field, "a 32-bit number"))
    }
}

pub(super) fn missing(field: &str, kind: &str) -> ProtocolError {
    ProtocolError(format!("'{field}' is missing or not {kind}"))
}

pub(super) fn bad(field: &str, value: &str) -> ProtocolError {
    ProtocolError(format!("'{field}' cannot be '{value}'"))
}
