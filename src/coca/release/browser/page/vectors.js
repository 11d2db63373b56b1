// Vectors of a collection, and exact search among them.

export class Vectors {
  // `buffer` contains 16-bit floating-point numbers, one vector after another.
  constructor(buffer, size) {
    const halves = new Uint16Array(buffer);
    this.size = size;
    this.count = halves.length / size;
    this.numbers = Float32Array.from(halves, fromHalf);
    this.rows = [...Array(this.count).keys()].filter((row) => this.has(row));
  }

  row(number) {
    return this.numbers.subarray(number * this.size, (number + 1) * this.size);
  }

  // Whether a row has a vector; without one it has zeros.
  has(number) {
    return this.row(number).some(Boolean);
  }

  // All rows with their cosines, nearest first, without rows of zeros.
  nearest(query) {
    return ranked(this.scores(query), this.rows);
  }

  // The cosine of each row with a query. A longer query is shortened.
  scores(query) {
    const unit = normalized(query.subarray(0, this.size));
    const scores = new Float32Array(this.count);
    for (let row = 0, at = 0; row < this.count; row++) {
      let sum = 0;
      for (let n = 0; n < this.size; n++, at++) sum += unit[n] * this.numbers[at];
      scores[row] = sum;
    }
    return scores;
  }
}

// Rows with their scores, best first; equal scores in the order of rows, which is that of ids.
export function ranked(scores, rows) {
  const order = [...rows].sort((a, b) => scores[b] - scores[a] || a - b);
  return order.map((row) => ({ row, score: scores[row] }));
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
