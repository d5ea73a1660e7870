//! The bytes that say what comes next. One name per byte of V8's format; nothing else is here.

pub(super) const HEADER: u8 = 0xff;
/// The version written. All of Node 18 to 26 write and read it.
pub(super) const VERSION: u8 = 15;
pub(super) const OLDEST_VERSION: u8 = 13;
/// Views carry a flags field from here on.
pub(super) const VERSION_WITH_VIEW_FLAGS: u8 = 14;

pub(super) const PADDING: u8 = 0;
pub(super) const OBJECT_COUNT: u8 = b'?';

pub(super) const UNDEFINED: u8 = b'_';
pub(super) const NULL: u8 = b'0';
pub(super) const TRUE: u8 = b'T';
pub(super) const FALSE: u8 = b'F';
pub(super) const INT32: u8 = b'I';
pub(super) const UINT32: u8 = b'U';
pub(super) const DOUBLE: u8 = b'N';
pub(super) const BIGINT: u8 = b'Z';
pub(super) const LATIN1: u8 = b'"';
pub(super) const UTF16: u8 = b'c';
pub(super) const UTF8: u8 = b'S';

pub(super) const REFERENCE: u8 = b'^';
pub(super) const OBJECT: u8 = b'o';
pub(super) const END_OBJECT: u8 = b'{';
pub(super) const DENSE_ARRAY: u8 = b'A';
pub(super) const END_DENSE_ARRAY: u8 = b'$';
pub(super) const SPARSE_ARRAY: u8 = b'a';
pub(super) const END_SPARSE_ARRAY: u8 = b'@';
pub(super) const HOLE: u8 = b'-';
pub(super) const DATE: u8 = b'D';
pub(super) const MAP: u8 = b';';
pub(super) const END_MAP: u8 = b':';
pub(super) const SET: u8 = b'\'';
pub(super) const END_SET: u8 = b',';
pub(super) const REGEXP: u8 = b'R';
pub(super) const TRUE_OBJECT: u8 = b'y';
pub(super) const FALSE_OBJECT: u8 = b'x';
pub(super) const NUMBER_OBJECT: u8 = b'n';
pub(super) const BIGINT_OBJECT: u8 = b'z';
pub(super) const STRING_OBJECT: u8 = b's';
pub(super) const ARRAY_BUFFER: u8 = b'B';
pub(super) const RESIZABLE_BUFFER: u8 = b'~';
pub(super) const VIEW: u8 = b'V';
pub(super) const ERROR: u8 = b'r';
pub(super) const HOST_OBJECT: u8 = b'\\';

// Inside an error: what the next part is.
pub(super) const ERROR_MESSAGE: u8 = b'm';
pub(super) const ERROR_STACK: u8 = b's';
pub(super) const ERROR_CAUSE: u8 = b'c';
pub(super) const ERROR_END: u8 = b'.';

// Inside a host object: which of the two kinds Node's channel writes.
pub(super) const HOST_VIEW: u32 = 0;
pub(super) const HOST_PLAIN: u32 = 1;

// The flags of a native view.
pub(super) const VIEW_TRACKS_LENGTH: u32 = 1;
pub(super) const VIEW_OF_RESIZABLE: u32 = 2;
