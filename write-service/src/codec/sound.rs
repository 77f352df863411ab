//! Whether stored bytes are a sound event, found without making one.
//!
//! To see it by decoding costs some ten short texts for each event, made and dropped at once. Here the bytes are walked along the
//! contract's own descriptors. What is not surely sound may be sound all the same: fields that this release does not know, and
//! whatever else no encoder of ours writes, are left to the decoder.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::StoredEvent;

/// What messages are nested in each other at most; an event has three.
const DEEPEST: usize = 8;

static EVENT: LazyLock<EventShape> = LazyLock::new(EventShape::of_contract);

/// Whether both parts are surely sound, and the body is the one that the type names.
#[must_use]
pub fn is_surely_sound(stored: &StoredEvent) -> bool {
    let body = EVENT.bodies.get(&stored.type_name).and_then(|body| body.field(&stored.body));
    body.is_some_and(<[u8]>::is_empty) && EVENT.envelope.is(&stored.metadata)
}

/// The fields of a recorded event.
struct EventShape {
    /// Those outside of the oneof.
    envelope: Shape,
    /// By the type of the body, its field of the oneof alone.
    bodies: HashMap<String, Shape>,
}

/// The fields of a message by their number.
#[derive(Default)]
struct Shape(Vec<Option<Field>>);

/// What bytes of a field are looked at for.
enum Field {
    Varint,
    Text,
    Message(Shape),
}

impl EventShape {
    fn of_contract() -> Self {
        let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default().file;
        let named = files.into_iter().flat_map(|file| {
            let package = file.package().to_owned();
            file.message_type
                .into_iter()
                .map(move |message| (format!(".{package}.{}", message.name()), message))
        });
        let messages: HashMap<_, _> = named.collect();
        let fields = messages.get(".orders.v1.RecordedEvent").map_or(&[][..], |event| &event.field);
        let in_oneof = |field: &&FieldDescriptorProto| field.oneof_index.is_some();
        let body = |field: &FieldDescriptorProto| {
            let name = field.type_name().rsplit('.').next()?;
            Some((name.to_owned(), Shape::of([field], &messages, DEEPEST)))
        };
        Self {
            envelope: Shape::of(fields.iter().filter(|field| !in_oneof(field)), &messages, DEEPEST),
            bodies: fields.iter().filter(in_oneof).filter_map(body).collect(),
        }
    }
}

impl Shape {
    fn of<'a>(
        fields: impl IntoIterator<Item = &'a FieldDescriptorProto>,
        messages: &HashMap<String, DescriptorProto>,
        depth: usize,
    ) -> Self {
        let mut shape = Self::default();
        for field in fields {
            let number = usize::try_from(field.number()).unwrap_or(0);
            if shape.0.len() <= number {
                shape.0.resize_with(number + 1, || None);
            }
            shape.0[number] = match field.r#type() {
                // Repeated numbers come packed or not.
                Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum
                    if field.label() != Label::Repeated =>
                {
                    Some(Field::Varint)
                }
                Type::String => Some(Field::Text),
                Type::Message if depth > 0 => messages
                    .get(field.type_name())
                    .map(|message| Field::Message(Self::of(&message.field, messages, depth - 1))),
                _ => None,
            };
        }
        shape
    }

    /// Whether these bytes are such a message.
    fn is(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some(rest) = self.field(bytes) else { return false };
            bytes = rest;
        }
        true
    }

    /// What follows the field that these bytes begin with; `None` where that is not surely sound.
    fn field<'a>(&self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let field = self.0.get(usize::try_from(number).ok()?)?.as_ref()?;
        if wire != field.wire() {
            return None;
        }
        let value = decode_varint(&mut bytes).ok()?;
        let split = || bytes.split_at_checked(usize::try_from(value).ok()?);
        match field {
            Field::Varint => Some(bytes),
            Field::Text => {
                split().filter(|(text, _)| std::str::from_utf8(text).is_ok()).map(|(_, rest)| rest)
            }
            Field::Message(shape) => split().filter(|(message, _)| shape.is(message)).map(|(_, rest)| rest),
        }
    }
}

impl Field {
    fn wire(&self) -> WireType {
        match self {
            Self::Varint => WireType::Varint,
            Self::Text | Self::Message(_) => WireType::LengthDelimited,
        }
    }
}
