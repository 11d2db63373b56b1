// Byte pair encoding by a tokenizer.json, with the ids of the Python library `tokenizers`.

const WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

export class Tokenizer {
  // `file` is the content of tokenizer.json, `layout` the text section of preprocess.json.
  constructor(file, layout) {
    this.layout = layout;
    const model = file.model;
    this.ids = new Map(Object.entries(model.vocab));
    const pairs = model.merges.map((pair) => (Array.isArray(pair) ? pair.join(" ") : pair));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    this.suffix = model.end_of_word_suffix ?? "";
    this.ignoresMerges = model.ignore_merges ?? false;
    this.normalizers = parts(file.normalizer, "normalizers").map(normalizer);
    this.splitters = parts(file.pre_tokenizer, "pretokenizers").map(splitter);
  }

  // Token ids of a text with special tokens; a longer text keeps its special tokens.
  encode(text) {
    const { bos_id, suffix, context_length } = this.layout;
    const room = context_length - 1 - suffix.length;
    return [bos_id, ...this.textIds(text).slice(0, room), ...suffix];
  }

  textIds(text) {
    // Without the repairs of ftfy and HTML entities, which Python applies to unusual texts.
    if (this.layout.cleaning === "clip") text = text.trim().split(/\s+/).join(" ").toLowerCase();
    for (const apply of this.normalizers) text = apply(text);
    let words = [text];
    for (const split of this.splitters) words = words.flatMap(split);
    return words.flatMap((word) => this.wordIds(word));
  }

  wordIds(word) {
    if (this.ignoresMerges && this.ids.has(word)) return [this.ids.get(word)];
    const letters = [...word];
    let pieces = letters.map((letter, n) => (n === letters.length - 1 ? letter + this.suffix : letter));
    pieces = pieces.filter((piece) => this.ids.has(piece));
    while (pieces.length > 1) {
      let best = -1;
      let lowest = Infinity;
      for (let n = 0; n + 1 < pieces.length; n++) {
        const rank = this.ranks.get(`${pieces[n]} ${pieces[n + 1]}`);
        if (rank < lowest) [best, lowest] = [n, rank];
      }
      if (best < 0) break;
      pieces.splice(best, 2, pieces[best] + pieces[best + 1]);
    }
    return pieces.map((piece) => this.ids.get(piece));
  }
}

function parts(one, name) {
  if (!one) return [];
  return one.type === "Sequence" ? one[name] : [one];
}

// JavaScript's \s has U+FEFF and lacks U+0085; Unicode's White_Space is the one of the library.
function unicodePattern(pattern) {
  return pattern
    .replaceAll("\\s", "\\p{White_Space}")
    .replaceAll("\\S", "\\P{White_Space}")
    .replaceAll("\\x{", "\\u{")
    // Texts are in lower case before this pattern is applied.
    .replaceAll("(?i:", "(?:");
}

function normalizer(one) {
  switch (one.type) {
    case "Lowercase":
      // Each character by itself, so that a final sigma is as any other.
      return (text) => Array.from(text, (letter) => letter.toLowerCase()).join("");
    case "NFC":
      return (text) => text.normalize("NFC");
    case "Strip": {
      const ends = [one.strip_left && "^\\s+", one.strip_right && "\\s+$"].filter(Boolean).join("|");
      const pattern = new RegExp(unicodePattern(ends), "gu");
      return (text) => (ends ? text.replace(pattern, "") : text);
    }
    default:
      throw new Error(`unknown normalizer ${one.type}`);
  }
}

function splitter(one) {
  switch (one.type) {
    case "ByteLevel": {
      const words = new RegExp(unicodePattern(WORDS), "gu");
      return (text) => {
        if (one.add_prefix_space && text && !text.startsWith(" ")) text = ` ${text}`;
        return (one.use_regex ? text.match(words) ?? [] : [text]).map(byteLetters);
      };
    }
    case "Split": {
      // Kept is what matches: behavior "Removed", inverted.
      const pattern = new RegExp(unicodePattern(one.pattern.Regex), "gu");
      return (text) => text.match(pattern) ?? [];
    }
    default:
      throw new Error(`unknown pre-tokenizer ${one.type}`);
  }
}

// Printable bytes are themselves, the others follow U+0100.
const LETTERS = (() => {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

function byteLetters(word) {
  return Array.from(new TextEncoder().encode(word), (byte) => LETTERS[byte]).join("");
}
