// Images to the input of the vision graph, by the rules of `coca.runtime.preprocess`.
// An image is { width, height, data }, with three bytes per pixel in rows.

const TOLERANCE = 12;
const MAX_SQUARE = 7071;

// Bytes of 3 x S x S, red first.
export function square(image, settings) {
  const side = settings.image_size;
  const trimmed = settings.trim ? trimBorder(image) : image;
  const { data } = resized(trimmed, settings);
  const planes = new Uint8Array(3 * side * side);
  for (let at = 0; at < side * side; at++) {
    for (let c = 0; c < 3; c++) planes[c * side * side + at] = data[3 * at + c];
  }
  return planes;
}

// Drops the alpha channel of canvas pixels.
export function rgb({ width, height, data }) {
  const bytes = new Uint8Array(width * height * 3);
  for (let at = 0; at < width * height; at++) {
    for (let c = 0; c < 3; c++) bytes[3 * at + c] = data[4 * at + c];
  }
  return { width, height, data: bytes };
}

// Crops the empty border, and pads the rest to a square in the border's color.
export function trimBorder(image) {
  const { width, height, data } = image;
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 3) {
      const drawn = [0, 1, 2].some((c) => Math.abs(data[at + c] - data[c]) > TOLERANCE);
      if (!drawn) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
    }
  }
  if (right <= left) return image;
  const part = shortened(crop(image, left, top, right - left, bottom - top));
  const side = Math.max(part.width, part.height);
  const [x, y] = [part.width, part.height].map((length) => Math.floor((side - length) / 2));
  return paste(part, x, y, side, side, data.subarray(0, 3));
}

// Divides the sides by a whole number, so that the square around a long strip fits into memory.
function shortened(image) {
  const factor = Math.ceil(Math.max(image.width, image.height) / MAX_SQUARE);
  const [width, height] = [image.width, image.height].map((length) => Math.ceil(length / factor));
  return resample(image, width, height, "box");
}

function resized(image, { image_size: side, resize, interpolation }) {
  const { width, height } = image;
  const to = (source, w, h) => resample(source, w, h, interpolation);
  switch (resize) {
    case "squash":
      return to(image, side, side);
    case "crop": {
      const short = Math.min(width, height);
      return to(center(image, short, short), side, side);
    }
    case "pad": {
      const scale = side / Math.max(width, height);
      const [w, h] = [width, height].map((length) => Math.max(1, roundEven(length * scale)));
      const [left, top] = [w, h].map((length) => Math.floor((side - length) / 2));
      return paste(to(image, w, h), left, top, side, side, [255, 255, 255]);
    }
    case "shortest": {
      const cut = 256 * Math.min(width, height);
      const source = center(image, Math.min(width, cut), Math.min(height, cut));
      const short = Math.min(source.width, source.height);
      const [w, h] = [source.width, source.height].map((length) => Math.floor((side * length) / short));
      const [left, top] = [w, h].map((length) => roundEven((length - side) / 2));
      return crop(to(source, w, h), left, top, side, side);
    }
    default:
      throw new Error(`unknown resize method ${resize}`);
  }
}

// Rounds a half to the even number, as Python does.
function roundEven(value) {
  const whole = Math.floor(value);
  const rest = value - whole;
  return rest > 0.5 || (rest === 0.5 && whole % 2) ? whole + 1 : whole;
}

function center(image, width, height) {
  const [left, top] = [Math.floor((image.width - width) / 2), Math.floor((image.height - height) / 2)];
  return crop(image, left, top, width, height);
}

function crop(image, left, top, width, height) {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * 3;
    data.set(image.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { width, height, data };
}

function paste(image, left, top, width, height, color) {
  const data = new Uint8Array(width * height * 3);
  for (let at = 0; at < data.length; at++) data[at] = color[at % 3];
  for (let y = 0; y < image.height; y++) {
    const row = image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3);
    data.set(row, ((top + y) * width + left) * 3);
  }
  return { width, height, data };
}

const FILTERS = {
  box: { support: 0.5, weight: (x) => Number(x > -0.5 && x <= 0.5) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (x) => {
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
    },
  },
};

// Resizes with the antialiased filters of Pillow 13, in its order of axes; bytes in between.
export function resample(image, width, height, interpolation) {
  const across = (one, to) => (one.width === to ? one : resampleRows(one, to, FILTERS[interpolation]));
  const down = (one) => transpose(across(transpose(one), height));
  const tall = image.height > height && image.height - height > 2 * (image.width - width);
  return tall ? across(down(image), width) : down(across(image, width));
}

function resampleRows({ width: from, height, data }, width, filter) {
  const out = new Uint8ClampedArray(width * height * 3);
  const scale = from / width;
  const stretch = Math.max(1, scale);
  const reach = filter.support * stretch;
  for (let x = 0; x < width; x++) {
    const middle = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach + 0.5));
    const last = Math.min(from, Math.trunc(middle + reach + 0.5));
    const weights = [];
    for (let at = first; at < last; at++) weights.push(filter.weight((at - middle + 0.5) / stretch));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let n = 0; n < weights.length; n++) sum += weights[n] * data[(y * from + first + n) * 3 + c];
        out[(y * width + x) * 3 + c] = Math.floor(sum / total + 0.5);
      }
    }
  }
  return { width, height, data: new Uint8Array(out.buffer) };
}

function transpose({ width, height, data }) {
  const out = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) out[(x * height + y) * 3 + c] = data[(y * width + x) * 3 + c];
    }
  }
  return { width: height, height: width, data: out };
}
