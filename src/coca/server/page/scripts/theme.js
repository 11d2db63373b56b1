// Applies the saved color theme before the first paint; a classic script, since modules run later.
(() => {
  const saved = localStorage.getItem("coca.theme");
  if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
})();
