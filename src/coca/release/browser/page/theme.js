// Applies the saved color theme before the first paint; a classic script, since modules run later.
(() => {
  const theme = localStorage.getItem("coca.theme");
  if (theme) document.documentElement.dataset.theme = theme;
})();
