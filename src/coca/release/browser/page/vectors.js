// Vectors of a collection, and exact search among them.

export class Vectors {
  // `buffer` holds 16-bit floating-point numbers, one vector after another.
  constructor(buffer, size) {
    const halves = new Uint16Array(buffer);
    this.size = size;
    this.count = halves.length / size;
    this.numbers = Float32Array.from(halves, fromHalf);
  }

  row(number) {
    return this.numbers.subarray(number * this.size, (number + 1) * this.size);
  }

  // Row numbers and cosines of the nearest vectors, best first. A longer query is shortened.
  nearest(query, k) {
    const scores = new Float32Array(this.count);
    const unit = normalized(query.subarray(0, this.size));
    for (let row = 0, at = 0; row < this.count; row++) {
      let sum = 0;
      for (let n = 0; n < this.size; n++, at++) sum += unit[n] * this.numbers[at];
      scores[row] = sum;
    }
    const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
    return order.slice(0, k).map((row) => ({ row, score: scores[row] }));
  }
}

function normalized(vector) {
  const length = Math.hypot(...vector);
  return vector.map((number) => number / length);
}

export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
