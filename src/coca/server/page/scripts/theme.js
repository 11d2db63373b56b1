// Applies the saved color theme and panels before the first paint; a classic script,
// since modules run later.
(() => {
  const { dataset } = document.documentElement;
  const theme = localStorage.getItem("coca.theme");
  if (theme === "light" || theme === "dark") dataset.theme = theme;
  dataset.details = localStorage.getItem("coca.details") ?? "closed";
  const wide = matchMedia("(min-width: 1200px)").matches;
  if (wide && localStorage.getItem("coca.filters") !== "closed") dataset.filters = "open";
})();
