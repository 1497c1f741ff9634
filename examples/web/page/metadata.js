// Metadata of an ONNX file, which the runtime does not return: the file is a protobuf message whose field 14 holds pairs
// of a key (1) and a value (2).

const [METADATA, KEY, VALUE, TEXT] = [14, 1, 2, 2];

/**
 * Reads the metadata of an ONNX file.
 * @param {Uint8Array} bytes the whole file
 * @returns {Object<string, string>}
 */
export function metadataOf(bytes) {
  const found = {};
  for (const [field, content] of fields(bytes)) {
    if (field !== METADATA) continue;
    const pair = Object.fromEntries(fields(content));
    found[new TextDecoder().decode(pair[KEY])] = new TextDecoder().decode(pair[VALUE]);
  }
  return found;
}

/** Iterates over the fields of a message that hold bytes: number and content. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const tag = number();
    const kind = tag & 7;
    if (kind === TEXT) {
      const length = number();
      yield [Math.floor(tag / 8), bytes.subarray(at, (at += length))];
    } else if (kind === 0) number();
    else at += kind === 1 ? 8 : 4;
  }
}
