const names = [...document.querySelectorAll("#names option")].map(option => option.value);
const cells = [...document.querySelectorAll("#matrix [data-row], #matrix [data-column]")];
document.getElementById("find").addEventListener("input", event => {
  const typed = event.target.value.toLowerCase();
  const wanted = new Set(names.flatMap((name, i) => name.toLowerCase().includes(typed) ? [String(i)] : []));
  cells.forEach(cell => cell.classList.toggle("dim", !wanted.has(cell.dataset.row) && !wanted.has(cell.dataset.column)));
});
for (const kind of ["pointerover", "click"]) document.getElementById("matrix").addEventListener(kind, event => {
  const { row, column, count } = event.target.dataset;
  if (count) document.getElementById("cell").textContent = `${names[row]} predicted as ${names[column]}: ${count} times`;
});
