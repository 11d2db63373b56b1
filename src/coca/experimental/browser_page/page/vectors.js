// Vectors of a collection, and exact search among them.

export class Vectors {
  // `buffer` has a 32-bit float for each vector, by which its 8-bit numbers are multiplied so that
  // its length is 1, and then the vectors one after another.
  constructor(buffer, size) {
    this.size = size;
    this.count = buffer.byteLength / (size + 4);
    this.factors = new Float32Array(buffer, 0, this.count);
    this.codes = new Int8Array(buffer, 4 * this.count);
  }

  row(number) {
    const codes = this.codes.subarray(number * this.size, (number + 1) * this.size);
    return Float32Array.from(codes, (code) => code * this.factors[number]);
  }

  // All rows with their cosines, best first; equal ones in the order of rows, which is that of ids.
  // A longer query is shortened.
  nearest(query) {
    const short = query.subarray(0, this.size);
    const length = Math.hypot(...short);
    const scores = new Float32Array(this.count);
    for (let row = 0, at = 0; row < this.count; row++) {
      let sum = 0;
      for (let n = 0; n < this.size; n++, at++) sum += short[n] * this.codes[at];
      scores[row] = (sum * this.factors[row]) / length;
    }
    const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b);
    return order.map((row) => ({ row, score: scores[row] }));
  }
}
