"""Pages that should pass: prose in the eight languages, a program, and a piece of mathematics."""

PROSE = {
    "en": """
The river froze early that year, and the ferry stayed tied to the quay until March.
Children crossed on foot with their sledges, although their parents had forbidden it twice.
An old baker sold warm rolls from a box that he had fixed upon skates.
Nobody asked him for a licence, because everyone liked the smell of his bread.
When the thaw came at last, it came with a noise like distant guns.
Most people have forgotten the winter, but the photographs still hang in the town hall.
One of them shows a horse standing quite alone in the middle of the ice.
The animal had walked home by itself after its owner fell asleep in a tavern.
Visitors often ask whether the story is true, and the guide never gives a straight answer.
She says instead that a good town needs at least one story to argue about.
""",
    "de": """
Der Fluss fror in jenem Jahr früh zu, und die Fähre lag bis zum März am Ufer fest.
Die Kinder liefen mit ihren Schlitten hinüber, obwohl es ihnen die Eltern verboten hatten.
Ein alter Bäcker verkaufte warme Brötchen aus einer Kiste, die auf Kufen stand.
Niemand fragte ihn nach einer Erlaubnis, denn alle mochten den Duft von seinem Brot.
Als endlich das Tauwetter kam, klang es wie ein Gewitter in den Bergen.
Heute erinnert sich kaum jemand daran, aber im Rathaus hängen noch einige Bilder.
Auf einem davon sieht man ein Pferd, das ganz allein mitten auf dem Eis steht.
Es war ohne seinen Herrn nach Hause gegangen, der in einer Schenke eingeschlafen war.
""",
    "fr": """
Cette année-là, la rivière gela très tôt et le bac resta amarré jusqu'au mois de mars.
Les enfants traversaient à pied avec leurs luges, bien que leurs parents l'eussent interdit.
Un vieux boulanger vendait des petits pains chauds dans une caisse montée sur des patins.
Personne ne lui demandait de permis, car tout le monde aimait l'odeur de son pain.
Quand le dégel arriva enfin, il fit un bruit semblable à celui d'un orage lointain.
Presque tous ont oublié cet hiver, mais quelques photographies ornent encore la mairie.
L'une d'elles montre un cheval debout, tout seul, au milieu de la glace.
Il était rentré sans son maître, qui dormait profondément dans une auberge du port.
""",
    "it": """
Quell'anno il fiume gelò presto e il traghetto rimase legato al molo fino a marzo.
I bambini attraversavano a piedi con le slitte, benché i genitori lo avessero vietato.
Un vecchio fornaio vendeva panini caldi da una cassa che aveva montato sui pattini.
Nessuno gli chiedeva la licenza, perché a tutti piaceva il profumo del suo pane.
Quando arrivò finalmente il disgelo, fece un rumore come di tuoni lontani.
Quasi nessuno ricorda più quell'inverno, ma in municipio ci sono ancora le fotografie.
Una di esse mostra un cavallo fermo, tutto solo, in mezzo al ghiaccio.
Era tornato senza il padrone, che si era addormentato dentro un'osteria del porto.
""",
    "pt": """
Naquele ano o rio congelou cedo e a balsa ficou presa ao cais até março.
As crianças atravessavam a pé com os trenós, embora os pais tivessem proibido.
Um velho padeiro vendia pãezinhos quentes numa caixa que ele montou sobre patins.
Ninguém lhe pedia licença, porque toda a gente gostava do cheiro de seu pão.
Quando o degelo finalmente chegou, fez um barulho parecido com trovões distantes.
Quase ninguém se lembra daquele inverno, mas as fotografias continuam na prefeitura.
Uma delas mostra um cavalo parado, completamente sozinho, no meio do gelo.
Ele tinha voltado sem o dono, que adormeceu dentro de uma taberna do porto.
""",
    "hi": """
उस साल नदी बहुत जल्दी जम गई और नाव मार्च तक घाट से बँधी रही।
बच्चे अपनी गाड़ियाँ लेकर पैदल पार जाते थे, हालाँकि माता-पिता ने मना किया था।
एक बूढ़ा नानबाई लकड़ी के डिब्बे में गरम रोटियाँ रखकर बेचता था।
किसी ने उससे अनुमति पत्र नहीं माँगा, क्योंकि सबको उसकी रोटी की महक पसंद थी।
जब आख़िर बर्फ़ पिघली, तो दूर गरजते बादलों जैसी आवाज़ हुई।
अब वह सर्दी कम लोगों को याद है, पर नगर भवन में कुछ तस्वीरें टँगी हैं।
उनमें से एक में घोड़ा बर्फ़ के बीच बिल्कुल अकेला खड़ा दिखता है।
वह अपने मालिक को छोड़कर घर लौट आया था, जो सराय में सो गया था।
""",
    "es": """
Aquel año el río se heló temprano y la barca quedó atada al muelle hasta marzo.
Los niños cruzaban a pie con sus trineos, aunque los padres lo habían prohibido.
Un viejo panadero vendía bollos calientes en una caja que había montado sobre patines.
Nadie le pedía permiso, porque a todo el mundo le gustaba el olor de su pan.
Cuando por fin llegó el deshielo, hizo un ruido parecido al de truenos lejanos.
Casi nadie recuerda ya aquel invierno, pero en el ayuntamiento cuelgan varias fotografías.
Una de ellas muestra un caballo parado, completamente solo, en medio del hielo.
Había vuelto sin su dueño, que dormía profundamente dentro de una taberna del puerto.
""",
    "th": """
ปีนั้นแม่น้ำกลายเป็นน้ำแข็งเร็วกว่าปกติ และเรือข้ามฟากจอดนิ่งอยู่ริมท่าจนถึงเดือนมีนาคม
เด็กๆ เดินลากเลื่อนข้ามไปอีกฝั่ง ทั้งที่พ่อแม่ห้ามไว้หลายครั้ง
คนทำขนมปังชราขายขนมอุ่นๆ จากลังไม้ซึ่งติดใบมีดไว้ข้างใต้
ไม่มีใครถามหาใบอนุญาตจากเขา เพราะทุกคนชอบกลิ่นหอมของแป้งอบใหม่
เมื่ออากาศอุ่นขึ้นในที่สุด เสียงแตกดังสนั่นคล้ายฟ้าร้องไกลๆ
ปัจจุบันแทบไม่มีผู้ใดจำฤดูหนาวครั้งนั้นได้ แต่ภาพถ่ายยังแขวนอยู่บนผนังศาลากลาง
รูปหนึ่งแสดงให้เห็นม้ายืนเดียวดายกลางลานกว้างสีขาว
มันเดินกลับบ้านเองหลังจากนายหลับไปในโรงเตี๊ยมเล็กแถวตลาด
""",
}
CODE = '''
"""Keeps the most recent values of a stream."""

import collections
from typing import Iterator


class Window:
    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"size must be positive, not {size}")
        self._values = collections.deque(maxlen=size)

    def push(self, value: float) -> None:
        self._values.append(value)

    def mean(self) -> float:
        return sum(self._values) / len(self._values)

    def __iter__(self) -> Iterator[float]:
        yield from self._values


def smooth(stream, width=3):
    window = Window(width)
    for item in stream:
        window.push(item)
        yield window.mean()
'''
MATH = """
We show that the sum of the first odd numbers is a square, by induction on how many there are.
For one of them the claim reads $1 = 1^2$, which is plain.
Suppose that it holds for $n$ numbers, so that we have
\\[ \\sum_{k=1}^{n} (2k - 1) = n^2. \\]
The next odd number is $2n + 1$, and therefore
\\[ \\sum_{k=1}^{n+1} (2k - 1) = n^2 + 2n + 1 = (n + 1)^2, \\]
which is the claim for one number more. It follows that it holds for all of them.
A picture says the same: around a square of side $n$ one can lay a border of $2n + 1$ stones,
and the result is again a square, because its corner is filled by the last stone.
"""
