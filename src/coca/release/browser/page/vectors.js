// Vectors of a collection, and exact search among them.

export class Vectors {
  // `buffer` has a 32-bit float for each vector, by which its 8-bit numbers are multiplied so that
  // its length is 1, and then the vectors one after another.
  constructor(buffer, size) {
    this.size = size;
    this.count = buffer.byteLength / (size + 4);
    this.factors = new Float32Array(buffer, 0, this.count);
    this.codes = new Int8Array(buffer, 4 * this.count);
    this.rows = [...Array(this.count).keys()].filter((row) => this.has(row));
  }

  row(number) {
    const codes = this.codes.subarray(number * this.size, (number + 1) * this.size);
    return Float32Array.from(codes, (code) => code * this.factors[number]);
  }

  // Whether a row has a vector; without one its factor is zero.
  has(number) {
    return this.factors[number] !== 0;
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
      for (let n = 0; n < this.size; n++, at++) sum += unit[n] * this.codes[at];
      scores[row] = sum * this.factors[row];
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
